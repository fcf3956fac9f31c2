"""The compiler: sources, passes, strategies, command line, loader."""
