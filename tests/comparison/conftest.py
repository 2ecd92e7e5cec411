"""Cells that are kept in the project's results must not stand in for those that a test makes or misses."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_kept_cells(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.cells.RESULTS", tmp_path / "results")
