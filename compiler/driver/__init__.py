"""From any input and options to a finished plan."""
