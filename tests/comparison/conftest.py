"""Runs that are kept in the project's results must not stand in for those that a test makes or misses, nor must a test
write there."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_kept_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.records.RESULTS", tmp_path / "results")
    monkeypatch.setenv("FLC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("benchmarks.runner.commit", lambda: "abc")
