"""Placements as accelerate makes them: its quirks and nothing else."""
