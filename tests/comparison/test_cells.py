"""Cells of a comparison: what they are made of, and what tells one run from another."""

from __future__ import annotations

import json
import os

import pytest
from PIL import Image

from benchmarks.cells import Cell, Scale, described, difference, name_of
from flc.errors import UserError
from flc.recipe import resolve

TINY = Scale("tiny")


def test_a_cells_own_options_are_over_the_scales_and_those_over_the_presets(tmp_path, monkeypatch):
    preset = resolve({}, {}, {}).distiller.options["fake_lr"]
    (tmp_path / "mine.yaml").write_text(
        "distill: {iterations: 7}\nalgorithms: {distiller: {dmd: {lr: 0.5, ratio: 9}}, teacher: {cfg: {scale: 3}}}\n"
    )
    monkeypatch.setattr("benchmarks.cells.SCALES", tmp_path)
    plain, own = (Cell("c", v).at(Scale("mine"), 3) for v in ({}, {"distiller": {"name": "dmd", "lr": 0.25}}))
    assert (plain.distill.iterations, plain.seed) == (7, 3)
    assert (plain.distiller.options["lr"], plain.distiller.options["ratio"]) == (0.5, 9)
    assert (own.distiller.options["lr"], own.distiller.options["ratio"]) == (0.25, 9)
    assert plain.distiller.options["fake_lr"] == preset
    assert Cell("c", {"teacher": "cfg"}).at(Scale("mine"), 0).teacher.options["scale"] == 3
    assert Cell("c").at(Scale("mine", {"distill": {"iterations": 8}}), 0).distill.iterations == 8


def test_a_run_is_known_by_its_recipe_whatever_its_table_calls_it():
    one, two, other = (
        name_of(cell.at(TINY, 0)) for cell in (Cell("one"), Cell("two", {"steps": 4}), Cell("other", {"steps": 2}))
    )
    assert one == two != other and name_of(Cell("one").at(TINY, 1)) != one


def test_a_run_is_the_same_wherever_weights_clips_and_vbench_lie():
    def name(**over):
        return name_of(Cell("c").at(Scale("wan-14b", over), 0))

    here = name(model="/a/Wan", data="/a/clips")
    assert here == name(model="/b/c/Wan", data="clips", evaluate={"vbench_python": "/v/python", "vbench_data": "/v"})
    others = [name(model="/a/Wan2", data="/a/clips"), name(model="/a/Wan", data="/a/clips", evaluate={"batch": 2})]
    assert len({here, *others}) == 3


@pytest.mark.parametrize(("distiller", "same"), [("dmd", True), ("codmd", False)])
def test_the_parts_of_a_batch_count_only_where_a_loss_compares_its_clips(distiller, same):
    one, two = (
        name_of(Cell("c", {"distiller": distiller, "distill": {"accumulate": parts}}).at(TINY, 0)) for parts in (1, 2)
    )
    assert (one == two) == same


def test_a_run_is_known_by_what_its_manifest_asks_for(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")

    def name(place: str, text: str) -> str:
        (tmp_path / place).mkdir(exist_ok=True)
        (tmp_path / place / "m.jsonl").write_text(text)
        os.utime(tmp_path / place / "m.jsonl", ns=(0, len(seen)))  # a clock's tick is longer than this test
        over = {"evaluate": {"suite": "vbench", "manifest": str(tmp_path / place / "m.jsonl")}}
        seen.append(name_of(Cell("c").at(Scale("wan-14b", over), 0)))
        return seen[-1]

    seen: list[str] = []
    boat = json.dumps({"prompt": "a boat"})
    assert name("here", boat) == name("there", boat + "\n")
    assert len({name("here", text) for text in (boat, json.dumps({"prompt": "a tree"}), "no JSON")}) == 3
    image = json.dumps({"prompt": "a boat", "image": "../a.png"})
    before = name("here", image)
    Image.new("RGB", (9, 8)).save(tmp_path / "a.png")
    assert name("here", image) != before


def test_a_cell_that_cannot_be_is_refused_before_any_run():
    with pytest.raises(UserError, match="no pruner named 'elbow'"):
        Cell("c", {"pruner": "elbow"}).at(TINY, 0)


def test_a_difference_is_section_by_section_and_of_another_algorithm_all_of_it():
    base = {"steps": 4, "teacher": {"name": "cfg", "scale": 1.0}, "distill": {"batch": 16, "decay": True}}
    own = {"steps": 4, "teacher": {"name": "weak", "scale": 1.0}, "distill": {"batch": 8, "decay": True}}
    assert difference(own, base) == {"teacher": {"name": "weak", "scale": 1.0}, "distill": {"batch": 8}}
    assert difference({"teacher": {"name": "cfg", "scale": 2.0}}, base) == {"teacher": {"scale": 2.0}}
    assert difference(base, base) == {}


def test_a_recipe_is_described_by_what_its_scale_does_not_say_alike_in_every_table():
    def words(values, **more):
        return described(Cell("any", values, **more), TINY)

    assert words({}) == words({"steps": 4, "pruner": {"name": resolve({}, {}, {}).pruner.name}}) == "the scale's own"
    assert words({"distiller": "lcm", "teacher": "cfg"}) == "distiller=lcm teacher=cfg", "its rates are the scale's"
    assert words({"distiller": {"name": "lcm", "grid": 8}}) == "distiller=lcm(grid=8)"
    assert words({"keep": 1.0, "recovery": "none"}, all_in="distill") == "keep=1.0 recovery=none distill.iterations=560"
    assert words({"pruner": "random"}, seeded="pruner") == "pruner=random(seed=run's)", "every seed has one name"
    assert described(Cell("c"), Scale("tiny", {"evaluate": {"clips": 8}})) == "evaluate.clips=8", "what is laid over it"
