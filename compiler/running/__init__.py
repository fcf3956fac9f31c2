"""The rules of where a module runs and what moves, shared by the replay and the loader."""
