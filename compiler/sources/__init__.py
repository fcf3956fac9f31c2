"""Where plans come from: one file per kind of input."""
