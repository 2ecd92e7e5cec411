"""The search: rates around the preset's, whatever was found before, and on while the best is at an end; guidance."""

import math
from typing import ClassVar

import pytest

from benchmarks import search
from benchmarks.cells import Cell, Scale
from benchmarks.table2 import table

ROWS = {cell.label: cell for cell in table("tiny").rows}


def test_rates_are_the_presets_times_the_factor_also_where_the_scale_says_others(tmp_path, monkeypatch):
    preset = search.searched(ROWS["dmd2"], Scale("tiny"))
    (tmp_path / "mine.yaml").write_text("algorithms: {distiller: {dmd2: {lr: 0.5, fake_lr: 0.5, ratio: 9}}}\n")
    monkeypatch.setattr("benchmarks.cells.SCALES", tmp_path)
    assert search.searched(ROWS["dmd2"], Scale("mine")) == preset
    assert preset is not None
    recipe = search.variant(ROWS["dmd2"], Scale("mine"), 3.0).at(Scale("mine"), search.SEED)
    assert {k: recipe.distiller.options[k] for k in preset[2]} == {
        k: float(f"{3 * v:.3g}") for k, v in preset[2].items()
    }
    assert recipe.distiller.options["ratio"] == 9


def test_what_does_not_distil_is_searched_in_its_recovery_or_not_at_all():
    assert search.searched(ROWS["icmd"], Scale("tiny"))[:2] == ("recovery", "icmd")
    assert search.searched(ROWS["fastlightgen"], Scale("tiny"))[:2] == ("distiller", "dmd")
    assert search.searched(ROWS["blocks by F3's score"], Scale("tiny")) is None
    assert search.searched(ROWS["teacher, 4 steps"], Scale("tiny")) is None
    once = [cell.label for cell in search.algorithms(Scale("tiny"))]
    assert once == ["dmd2", "lcm", "magic", "icmd", "fastlightgen", "codmd on fastlightgen"]


def test_the_search_goes_beyond_an_end_only():
    assert search.beyond({1 / 3: 0.9, 1.0: 0.8, 3.0: 0.7}) == 1 / 3 / 3
    assert search.beyond({1 / 3: 0.7, 1.0: 0.9, 3.0: 0.8}) is None
    assert search.beyond({1 / 3: 0.7, 1.0: 0.8, 3.0: 0.9}) == 9.0
    assert search.beyond({1 / 3: 0.0, 1.0: 0.0, 3.0: 0.0}) is None, "a method that fails is not looked for"


def test_the_search_goes_on_until_the_best_is_between_two_others():
    """Averages that are highest at a 27th of the preset's rate: two rates beyond the first end, and one to see it."""

    class Made:
        scale = Scale("tiny")
        ran: ClassVar[list[str]] = []

        def run(self, cells, seeds):
            self.ran = [c.label for c in cells]

        def row(self, cell, seed):
            assert cell.label in self.ran
            rate = cell.values["distiller"]["lr"] if cell.label.startswith("dmd2") else 1.0
            return {"average": 1 - abs(math.log(rate / (3e-4 / 27))) / 100}

    found = search.bracketed(Made(), [ROWS["dmd2"]])["dmd2"]
    assert sorted(found) == pytest.approx([3.0**-4, 3.0**-3, 3.0**-2, 3.0**-1, 1.0, 3.0])


def test_teachers_are_guided_where_the_preset_does_not():
    guided = {
        c.label: search.guided(c, Scale("tiny"))
        for c in (*search.algorithms(Scale("tiny")), ROWS["blocks by F3's score"])
    }
    assert {label for label, cell in guided.items() if cell} >= {"dmd2", "lcm", "magic", "fastlightgen"}
    assert guided["icmd"] is None and guided["blocks by F3's score"] is None, "they distil nothing"
    lcm, ours = (guided[label].at(Scale("tiny"), search.SEED).teacher.options for label in ("lcm", "fastlightgen"))
    assert lcm["scale"] == ours["beta1"] == search.GUIDANCE and ours["beta2"] == 1.0, "the rest is the preset's"
    assert search.guided(ROWS["lcm"], Scale("wan-ti2v-5b")) is None, "guided as it is"


def test_stage_two_trains_the_empty_prompt_where_a_guided_teacher_asks_its_network_for_it():
    for label in ("fastlightgen", "codmd on fastlightgen", "lcm"):
        cell = next(c for c in search.algorithms(Scale("tiny")) if c.label == label)
        dropped = search.guided(cell, Scale("tiny")).at(Scale("tiny"), search.SEED).recover.drop_text
        assert dropped == (0.0 if label == "lcm" else 0.1), "lcm has no stage II"
        assert cell.at(Scale("tiny"), search.SEED).recover.drop_text == 0.0


def test_the_search_begins_without_the_guidance_that_it_found():
    for cell in search.algorithms(Scale("tiny")):
        teacher = cell.at(Scale("tiny"), search.SEED).teacher.options
        assert {teacher[name] for name in search.STRENGTHS if name in teacher} == {1.0}


def test_a_method_of_one_stage_is_searched_and_run_with_the_iterations_of_both():
    plain = ROWS["fastlightgen"].at(Scale("tiny"), 0)
    both = plain.recover.iterations + plain.distill.iterations
    for label, stage in (("dmd2", "distill"), ("lcm", "distill"), ("magic", "distill"), ("icmd", "recover")):
        for cell in (ROWS[label], search.variant(ROWS[label], Scale("tiny"), 3.0)):
            assert getattr(cell.at(Scale("tiny"), 0), stage).iterations == both, label


def test_a_dry_run_of_the_search_plans_and_runs_nothing(tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr("benchmarks.runner.Runs.dry", lambda self, cells, seed: asked.append((len(cells), seed)) or {})
    monkeypatch.setattr("benchmarks.runner.Runs._call", lambda *_: pytest.fail("a run was started"))
    monkeypatch.setattr("sys.argv", ["search", "--dry-run", "--seeds", "0", "--runs", str(tmp_path)])
    assert search.main() == 0
    assert asked == [(len(search.algorithms(Scale("tiny"))) * len(search.FACTORS), search.SEED)]


def test_every_variant_is_a_run_of_its_own():
    cells = [search.variant(ROWS["lcm"], Scale("tiny"), f) for f in search.FACTORS]
    assert len({str(c.at(Scale("tiny"), search.SEED).model_dump()) for c in cells}) == len(search.FACTORS)
    assert isinstance(cells[0], Cell)
