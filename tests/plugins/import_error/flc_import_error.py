"""Raises at import, as with a dependency that is not installed."""

raise ImportError("no module named 'left_pad'")
