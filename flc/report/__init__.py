"""One offline page about a finished run."""
