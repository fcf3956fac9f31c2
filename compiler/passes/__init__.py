"""The passes by name; written by hand so that the list is the truth."""
