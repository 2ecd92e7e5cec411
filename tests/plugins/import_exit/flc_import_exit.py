"""Leaves the process at import, as a script without a main guard does."""

raise SystemExit("usage: flc_import_exit FILE")
