"""What written lines mean for a model: one road for overrides, plans, the loader and the editor."""
