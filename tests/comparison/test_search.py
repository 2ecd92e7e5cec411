"""The search of learning rates: around the preset's, whatever was found before, and one rate beyond an end."""

from benchmarks import search
from benchmarks.cells import Cell, Scale
from benchmarks.table2 import TABLE

ROWS = {cell.label: cell for cell in TABLE.rows}


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
    assert search.searched(ROWS["f3"], Scale("tiny")) is None
    assert search.searched(ROWS["teacher, 4 steps"], Scale("tiny")) is None
    once = [cell.label for cell in search.algorithms(Scale("tiny"))]
    assert once == ["dmd2", "lcm", "magic", "icmd", "fastlightgen", "codmd on fastlightgen"]


def test_the_search_goes_beyond_an_end_only():
    low, high = search.FACTORS[0], search.FACTORS[-1]
    assert search.beyond([0.9, 0.8, 0.7]) == low / 3
    assert search.beyond([0.7, 0.9, 0.8]) is None
    assert search.beyond([0.7, 0.8, 0.9]) == high * 3


def test_a_method_of_one_stage_is_searched_and_run_with_the_iterations_of_both():
    plain = ROWS["fastlightgen"].at(Scale("tiny"), 0)
    both = plain.recover.iterations + plain.distill.iterations
    for label, stage in (("dmd2", "distill"), ("lcm", "distill"), ("magic", "distill"), ("icmd", "recover")):
        for cell in (ROWS[label], search.variant(ROWS[label], Scale("tiny"), 3.0)):
            assert getattr(cell.at(Scale("tiny"), 0), stage).iterations == both, label


def test_every_variant_is_a_run_of_its_own():
    cells = [search.variant(ROWS["lcm"], Scale("tiny"), f) for f in search.FACTORS]
    assert len({str(c.at(Scale("tiny"), search.SEED).model_dump()) for c in cells}) == len(search.FACTORS)
    assert isinstance(cells[0], Cell)
