"""The paper's numbers beside ours: what they are of, and which average of ours they may be compared with."""

from __future__ import annotations

import pytest
import yaml

from benchmarks import fig1, figure, parts, readme, render, table, table2, table4
from benchmarks.cells import Cell, Scale
from benchmarks.common import spread
from benchmarks.paper import PAPER, averages, dimensions, printed
from benchmarks.runner import Runs
from flc.evaluate.vbench_layout import DIMENSIONS
from tests.comparison.made import finish

SEVEN = dict(zip(DIMENSIONS["vbench-i2v"], (0.9, 0.8, 0.7, 0.3, 0.6, 0.5, 1.0), strict=True))
"""Of a run; the last is temporal flickering."""


@pytest.mark.parametrize("name", sorted(yaml.safe_load(PAPER.read_text())))
def test_every_printed_average_is_the_mean_of_its_dimensions_within_rounding_or_is_said_not_to_be(name):
    """Rounding of the last digit of each number makes .001 at most."""
    paper = printed(name)
    assert paper["of"]
    for key, values in paper["rows"].items():
        row = dict(zip(paper["columns"], values, strict=True))
        if "average" in row:
            mine = averages([{"scores": {c.replace(" ", "_"): v for c, v in row.items()}}], dimensions(paper))[0]
            assert mine == pytest.approx(row["average"], abs=1.01e-3) or f"{mine:.3f}" in paper["notes"], key


def test_a_papers_dimensions_are_its_own_six_seven_or_three():
    flicker = "temporal_flickering"
    assert flicker not in dimensions(printed("table2")) and flicker in dimensions(printed("table5"))
    assert [len(dimensions(printed(name))) for name in ("table1", "table2", "table4", "table8")] == [6, 6, 7, 7]
    assert dimensions(printed("fig1")) == ["dynamic_degree", "aesthetic_quality", "imaging_quality"]
    assert dimensions(printed("table3")) == [], "people's scores"


def test_an_average_over_the_papers_dimensions_is_of_rows_that_have_them_all():
    six = dimensions(printed("table2"))
    assert averages([{"scores": SEVEN}, {"error": "why"}], six) == [pytest.approx(3.8 / 6)]
    assert averages([{"scores": SEVEN}, {"scores": SEVEN | {"i2v_subject": None}}], six) == []
    text_to_video = {name: value for name, value in SEVEN.items() if name != "i2v_subject"}
    assert averages([{"scores": text_to_video}], six) == [] == averages([{"scores": SEVEN}], [])


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A table of one row beside the paper's Table 2, of finished runs with these scores."""
    monkeypatch.setattr(table, "interleaved", lambda folders, **more: {})

    def make(scores, seeds=(0,)):
        runs, cell = Runs(tmp_path / "runs", Scale("tiny"), 1), Cell("ours")
        for made in (table.TEACHER, cell):
            for seed in seeds:
                found = scores(seed)
                finish(runs, made, seed, sum(found.values()) / len(found), scores=found)
        one = table.Table(99, "One cell", (cell,), {"ours": "fastlightgen"}, papers=("table2",))
        return table.measure(one, runs, list(seeds))

    return make


def columns(text: str, label: str) -> dict[str, str]:
    heading, row = (next(x for x in text.splitlines() if x.startswith(f"| {name} |")) for name in ("", label))
    return dict(zip(heading.strip("| ").split(" | "), row.strip("| ").split(" | ")[1:], strict=True))


def test_beside_the_papers_average_stands_ours_over_its_dimensions(measured):
    """Two runs .1 apart in subject consistency: .1/6 apart over the paper's six, .1/7 over VBench's seven."""
    values = measured(lambda seed: SEVEN | {"subject_consistency": 0.8 + 0.1 * seed}, seeds=(0, 1))
    row = columns(render.markdown(values), "ours")
    assert row["average over Table 2's dimensions"] == f"{3.85 / 6:.3f} ± {0.1 / 6 / 2**0.5:.3f}"
    assert row["average"] == f"{4.85 / 7:.3f} ± {0.1 / 7 / 2**0.5:.3f}"
    assert row["paper: average (WanX-TI2V, VBench-I2V)"] == "0.794"


def test_under_the_drawn_suite_no_average_of_ours_is_named_after_the_papers_dimensions(measured):
    values = measured(lambda seed: {"dynamic_degree": 0.5, "motion_smoothness": 0.7})
    text = render.markdown(values)
    assert "average over" not in text and columns(text, "ours")["average"] == "0.600", "and one run has no spread"


def test_fig_1_is_of_the_papers_three_dimensions_where_all_points_have_them(tmp_path):
    runs = Runs(tmp_path, Scale("tiny"), 1)
    for cell in fig1.CELLS:
        finish(runs, cell, 0, 0.7, scores=SEVEN)
    points = fig1.measure(runs, [0])["points"]
    assert points[0]["as_paper"]["mean"] == pytest.approx(1.4 / 3)
    assert figure.comparable(points, "fig1") == ("as_paper", "average over Fig 1's dimensions")
    some = [{k: v for k, v in points[0].items() if k != "as_paper"}, *points[1:]]
    assert figure.comparable(some, "fig1") == ("average", "average")
    text = "\n".join(fig1.markdown({"points": points}))
    assert "average over Fig 1's dimensions / average" in text and "| 0.467 / 0.700 / n/a / n/a |" in text


def options(cell: Cell, kind: str, scale: str = "tiny") -> dict:
    return getattr(cell.at(Scale(scale), 0), kind).options


def test_what_table_2_says_of_its_rows_is_so():
    rows, full = ({cell.label: cell for cell in table2.table(scale).rows} for scale in ("tiny", "wan-14b"))
    notes = table2.table("tiny").notes
    assert "whether its teacher is guided (none is) are its best of `benchmarks.search`" in notes
    for name in ("dmd2", "lcm", "magic"):
        assert options(rows[name], "teacher")["scale"] == 1.0
        ours = options(full["fastlightgen"], "teacher", "wan-14b")["beta1"]
        assert options(full[name], "teacher", "wan-14b")["scale"] == ours
    own = options(rows["fastlightgen"], "teacher")
    assert (own["beta1"], own["beta2"]) == (1.0, 1.0) and options(rows["fastlightgen"], "pruner")["search"] == "greedy"
    assert options(rows["icmd"], "recovery")["adversarial"] == 0.01
    said = table2.table("wan-14b").notes
    assert "benchmarks.search" in notes and "benchmarks.search" not in said and "none was searched" in said


def test_what_table_4_says_of_stage_two_is_so():
    for name, p in (("tiny", 0.9), ("wan-14b", 0.5), ("hunyuan-13b", 0.5)):
        made = table4.table(name)
        for cell in made.rows:
            recovery = options(cell, "recovery", name)
            assert (recovery["anchor"], recovery["p"]) == ("frozen", p)
            assert cell.at(Scale(name), 0).recover.drop_text == 0.1
        assert ("p .9" in made.notes) == (p == 0.9) and "frozen" in made.notes


def test_what_the_table_of_parts_says_of_its_rows_is_so():
    assert parts.table("tiny").command == "python -m benchmarks.parts", "Table 10 is none of the paper's"
    for name, elbo, others in (("tiny", 288, 96), ("wan-14b", 256, 256)):
        rows, notes = {cell.label: cell for cell in parts.rows(name)}, " ".join(parts.table(name).notes.split())
        for label, samples in (("elbo", elbo), ("elbo, ranked once", elbo), ("shortgpt", others), ("taylor", others),
                               ("icmd", others), ("f3", 64), ("width", 64)):  # fmt: skip
            assert options(rows[label], "pruner", name)["samples"] == samples
        assert f"on {elbo} samples by elbo" in notes and "64 by f3 and width" in notes
        sft, bernoulli = (options(rows[label], "recovery", name) for label in ("elbo, plain recovery", "elbo"))
        assert (sft["lr"], sft["matrices"]) == (bernoulli["lr"], bernoulli["matrices"])
        plain, alone = (rows[label].at(Scale(name), 0) for label in ("elbo", "elbo, no recovery"))
        assert alone.distill.iterations == plain.recover.iterations + plain.distill.iterations
        reference = Cell("").at(Scale(name), 0)
        assert rows[parts.table(name).reference].at(Scale(name), 0) == reference, "differences are to the flagship"
        assert {rows[label].at(Scale(name), 0).pruner for label in ("elbo, plain recovery", "elbo, no recovery")} == {
            reference.pruner
        }
    paper = {"search": "ranking", "after": 0, "times": "path"}
    for name in ("tiny", "wan-14b"):
        ranked = options({cell.label: cell for cell in parts.rows(name)}["elbo, ranked once"], "pruner", name)
        assert {key: ranked[key] for key in paper} == paper, "Eq 4 of the model as it is, along the whole path, once"
    tiny = options(Cell("elbo", {"pruner": "elbo"}), "pruner")
    assert (tiny["search"], tiny["after"], tiny["times"]) == ("greedy", 120, "student"), "as the notes say"
    recover = Cell("").at(Scale("wan-14b"), 0).recover.iterations
    assert parts.FULL_ELBO["elbo, after a short recovery"]["after"] == 0.4 * recover


def test_the_readmes_comparison_says_na_where_a_row_has_no_time_reference_or_guard():
    row = {"steps": 4, "parameters": 10, "average": spread([0.5, 0.7]), "scores": {"distribution": spread([0.25])}}
    values = {"seeds": [0], "runs_of": ["abc"], "reference": "fastlightgen", "rows": {"lcm": row}, "paper": {}}
    assert readme.comparison("table2", values)[-1] == (
        "| lcm | 4 | 0.00 | n/a | n/a | 0.600 ± 0.141 | n/a | 0.250 | n/a |  |"
    )
