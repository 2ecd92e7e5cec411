"""`flc compress --store`: runs that differ in stage III alone train stage II once."""

from __future__ import annotations

import os

from tests.cli.small import SMALL

SETS = [
    part for key, value in SMALL.items() if not key.startswith("distiller.") for part in ("--set", f"{key}={value}")
]


def test_runs_that_differ_in_stage_three_share_what_comes_before_it(flc, place):
    command = ("compress", "--until", "recover", "--store", "store", *SETS)
    for out, more in (("one", ()), ("other", ("--distiller", "lcm", "--teacher", "cfg")), ("keep", ("--keep", "0.5"))):
        code, _, err = flc(*command, "--out", out, *more)
        assert code == 0, err
    same = {
        stage: [os.path.samefile(place / "one" / stage / "done.json", place / out / stage / "done.json")
                for out in ("other", "keep")]
        for stage in ("prepare", "score", "recover")
    }  # fmt: skip
    assert same == {"prepare": [True, True], "score": [True, False], "recover": [True, False]}
    assert not (place / "store" / "one").exists() and not list((place / "one").glob(".partial*"))
    code, _, err = flc("compress", "--out", "other", "--until", "recover", "--resume", *SETS, "--distiller", "lcm",
                       "--teacher", "cfg")  # fmt: skip
    assert code == 0, err
    assert os.path.samefile(place / "one" / "recover" / "done.json", place / "other" / "recover" / "done.json"), (
        "what was taken from the store is the run's own"
    )


def test_a_store_that_is_a_file_is_refused_before_anything_is_written(refused, place):
    (place / "file").write_text("")
    assert "--store file" in refused("compress", "--store", "file")
    assert "--store" in refused("compress", "--store", "file/below")
    assert "leave one of them out" in refused("compress", "--store", "new", "--dry-run")
