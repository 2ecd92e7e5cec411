"""One script for each claim; results with commit, seed and hardware in `results/`."""
