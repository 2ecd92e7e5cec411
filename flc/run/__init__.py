"""A run: stages as folders, skipped when done, safe to interrupt."""
