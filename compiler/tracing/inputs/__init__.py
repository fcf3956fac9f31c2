"""Example inputs for a trace: what the user gave, else guesses from config, signature and documentation."""
