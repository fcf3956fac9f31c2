"""The command line: arguments in, a plan shown and written, an exit code out."""
