"""Data: readers of every input format, the built-in search world, groups and token-budget batches."""
