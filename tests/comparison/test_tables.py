"""Tables of a comparison: their rows, the command for all of them, and a table whose cell fails."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import all as everything
from benchmarks import common, parts, table2, table5, table6
from benchmarks import table as tables
from benchmarks.cells import SCALES, Cell, Scale
from benchmarks.render import signed
from benchmarks.runner import Runs, summary
from benchmarks.table import TEACHER, Table
from flc.errors import UserError
from flc.evaluate.metrics import AVERAGE
from tests.comparison.made import finish

TINY = Scale("tiny")


def test_a_control_drawn_by_lot_is_drawn_anew_for_each_seed():
    (random,) = (cell for cell in parts.OTHERS if cell.seeded)
    assert [random.at(TINY, seed).pruner.options["seed"] for seed in (0, 1, 2)] == [0, 1, 2]


@pytest.mark.parametrize("name", sorted(path.stem for path in SCALES.glob("*.yaml")))
def test_every_scale_gives_every_table_a_valid_recipe(name):
    from benchmarks.all import EVERY, cells_of

    scale = Scale(name)
    for table in EVERY:
        for cell in cells_of(table, name):
            recipe = cell.at(scale, 0)
            assert recipe.teacher.options is not None
    assert scale.command()[-1] == "flc"


def test_the_paper_s_guidance_is_the_full_sizes():
    betas = {
        name: tuple(Cell("c").at(Scale(name), 0).teacher.options[b] for b in ("beta1", "beta2"))
        for name in ("wan-1.3b", "wan-14b", "wan-i2v-14b", "wan-ti2v-5b", "hunyuan-13b", "hunyuan-i2v-13b")
    }
    wan = {name: (3.5, 0.25) for name in ("wan-1.3b", "wan-14b", "wan-i2v-14b", "wan-ti2v-5b")}
    assert betas == wan | {"hunyuan-13b": (2.0, 0.25), "hunyuan-i2v-13b": (2.0, 0.25)}
    for name, (beta1, _) in betas.items():
        for teacher in ("cfg", "magic", "strong", "weak"):
            options = Cell("c", {"teacher": teacher}).at(Scale(name), 0).teacher.options
            assert options["scale"] == beta1, "all methods' guidance is as strong"


def test_table_5_is_the_papers_own_sweep_at_full_size_and_the_models_here():
    for name, main in (("wan-14b", (3.5, 0.25)), ("hunyuan-13b", (2.0, 0.25)), ("tiny", (1.0, 1.0))):
        made = table5.table(name)
        paths = {Runs(Path("runs"), Scale(name), 1).path(cell, 0) for cell in made.rows}
        assert len(paths) == len(made.rows), "each a run of its own"
        flagship = Cell("c").at(Scale(name), 0).teacher.options
        assert (flagship["beta1"], flagship["beta2"]) == main, "the sweep goes through the scale's own"
        assert table5.label(main) in {cell.label for cell in made.rows}
    assert table5.table("wan-14b").paper["beta1 1.5, beta2 0.25"] == "1.5, 0.25"
    assert table5.table("hunyuan-13b").papers[0] == "table8"


def test_some_rows_of_a_table_stand_beside_it_with_its_reference(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: {})
    some = parts.table("tiny").only(["uniform", "elbo"])
    assert [cell.label for cell in some.cells] == ["elbo", "uniform"] and some.name == "table10_some"
    runs = Runs(tmp_path / "runs", TINY, 1)
    for cell in some.cells:
        finish(runs, cell, 0, 0.5)
    assert list(tables.measure(some, runs, [0])["rows"]) == ["elbo", "uniform"]
    with pytest.raises(UserError, match="'unifrom' is no row of table10: 'teacher', 'elbo', "):
        parts.table("tiny").only(["unifrom"])


def test_guided_rows_of_table_5_train_the_empty_prompt_that_they_ask_for():
    for cell in table5.table("tiny").rows:
        recipe = cell.at(TINY, 0)
        beta1, trained = recipe.teacher.options["beta1"], recipe.recover.drop_text
        assert trained == (0.1 if beta1 != 1 or "empty prompt" in cell.label else 0.0), cell.label
    control, plain = (
        next(cell for cell in table5.table("tiny").rows if cell.label == label).at(TINY, 0)
        for label in ("beta1 1, beta2 0.25, empty prompt trained", "beta1 1, beta2 0.25")
    )
    same = control.recover.model_copy(update={"drop_text": plain.recover.drop_text})
    assert control.model_copy(update={"recover": same}) == plain


def test_the_row_of_f3s_score_is_named_for_what_it_is_and_no_number_of_the_papers_f3_stands_beside():
    made = table2.table("tiny")
    assert "blocks by F3's score" in {cell.label for cell in made.rows} and "f3" not in made.paper.values()


def test_table_6_stands_beside_the_papers_rows_of_the_scales_own_model():
    wan, hunyuan = table6.table("wan-14b"), table6.table("hunyuan-13b")
    assert (wan.papers[0], wan.paper["28 steps, 50% removed"]) == ("table6", "28, 50%")
    assert (hunyuan.papers[0], hunyuan.paper["4 steps, 0% removed"]) == ("table7", "0%")
    assert not any(label.startswith("28") for label in hunyuan.paper), "Table 7 has one number a ratio"


@pytest.mark.parametrize("name", sorted(path.stem for path in SCALES.glob("*.yaml")))
def test_no_two_rows_of_a_table_are_the_same_run(name):
    for table in everything.TABLES:
        cells = everything.cells_of(table, name)
        paths = {Runs(Path("runs"), Scale(name), 1).path(cell, 0) for cell in cells}
        assert len(paths) == len(cells) == len({cell.label for cell in cells}), table


def test_what_shows_clips_of_one_seed_asks_for_no_other(tmp_path):
    runs = Runs(tmp_path, TINY, 1)
    shown = everything.cells_of("fig7", "tiny")
    assert everything.missing(runs, ["fig7"], [3, 4]) == [(cell, 3) for cell in shown]
    both = everything.missing(runs, ["table5", "fig7"], [3, 4])
    assert len(both) == 2 * len(everything.cells_of("table5", "tiny")), "each run once"


def test_nothing_to_do_by_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["all", "--only"])
    with pytest.raises(SystemExit) as ended:
        everything.main()
    assert ended.value.code == 2 and "--only" in capsys.readouterr().err


def test_everything_knows_the_papers_numbers(monkeypatch):
    called = []
    monkeypatch.setattr(
        "subprocess.run", lambda command, **more: called.append(command) or SimpleNamespace(returncode=0)
    )
    monkeypatch.setattr("sys.argv", ["all", "--only", "table8", "table7", "table5", "table10"])
    assert everything.main() == 0
    assert [command[2] for command in called] == ["benchmarks.table5", "benchmarks.table6", "benchmarks.parts"]


def test_a_wrong_key_over_the_recipe_is_one_line_and_no_table(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["all", "--list", "--set", "distill.iteration=3"])
    with pytest.raises(SystemExit) as ended:
        everything.main()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "iteration" in said and said.count("\n") == 1


def test_everything_passes_on_where_the_weights_are(tmp_path, monkeypatch, capsys):
    called = []
    monkeypatch.setattr(
        "subprocess.run", lambda command, **more: called.append(command) or SimpleNamespace(returncode=0)
    )
    flags = [
        "--scale",
        "wan-14b",
        "--only",
        "table2",
        "--model",
        "W",
        "--set",
        "frames=9",
        "zero=2",
        "--seeds",
        "3",
    ]
    monkeypatch.setattr("sys.argv", ["all", *flags, "--runs", str(tmp_path)])
    assert everything.main() == 0
    ((_, _, module, *passed),) = called
    assert module == "benchmarks.table2"
    assert {"--scale=wan-14b", "--model=W", f"--runs={tmp_path}"} <= set(passed)
    assert passed[passed.index("--set") + 1 :] == ["frames=9", "zero=2"]
    assert passed[passed.index("--seeds") + 1] == "3" and "hours" not in capsys.readouterr().out


def test_a_table_with_a_failing_cell_is_finished_says_why_and_exits_1(tmp_path, monkeypatch, capsys):
    good, bad = Cell("good"), Cell("bad", {"data": str(tmp_path / "nowhere")})
    runs = Runs(tmp_path / "runs", TINY, 1)
    for cell in (TEACHER, good):
        finish(runs, cell, 0, 0.5, scores={"caption_accuracy": 0.5, "distribution": None})
    monkeypatch.setattr("sys.argv", ["table", "--seeds", "0", "--runs", str(tmp_path / "runs"), "--jobs", "1"])
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    written = {}
    monkeypatch.setattr(tables, "write", lambda name, script, values: written.update(values))
    assert tables.main(lambda scale: Table(99, f"Two cells, {scale}", (good, bad), {}), "a table") == 1
    text = (tmp_path / "table99.md").read_text()
    assert "## Two cells, tiny" in text and "| good | 4 |" in text and "| bad |" in text and "nowhere" in text
    assert written["rows"]["good"]["average"]["mean"] == 0.5 and "nowhere" in written["rows"]["bad"]["error"]
    assert "| bad |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"evaluate": {"suite": "vbench"}}, "evaluate.vbench_data=VBench/vbench"),
        ({"evaluate": {"manifest": "m.jsonl"}}, "gone.png does not exist"),
    ],
    ids=["a suite without its files", "a manifest without its image"],
)
def test_a_cell_whose_suite_cannot_be_fails_before_it_trains_and_the_table_says_why(tmp_path, monkeypatch, given, says):
    """By the command itself, in its own process."""
    (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a red circle moving left", "image": "gone.png"}) + "\n")
    if "manifest" in given["evaluate"]:
        given = {"evaluate": {"manifest": str(tmp_path / "m.jsonl")}}
    runs, cell = Runs(tmp_path / "runs", TINY, 1), Cell("bad", given)
    finish(runs, TEACHER, 0, 0.5)
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: {})
    values = tables.measure(Table(99, "One cell", (cell,), {}), runs, [0])
    assert says in values["rows"]["bad"]["error"] and f"failed: {values['rows']['bad']['error']}" in tables.markdown(
        values
    )
    assert not list(runs.path(cell, 0).rglob("done.json")), "nothing was encoded or trained for it"


def test_a_row_whose_first_seed_failed_has_the_time_of_another(tmp_path, monkeypatch):
    timed: dict = {}
    monkeypatch.setattr(Runs, "_call", lambda self, arguments, out: 1)
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: timed.update(folders) or {})
    runs = Runs(tmp_path / "runs", TINY, 1)
    for seed in (1, 2):
        finish(runs, TEACHER, seed, 0.5)
    tables.measure(Table(99, "No cell", (), {}), runs, [0, 1, 2])
    assert {label: record.seed for label, record in timed.items()} == {"teacher": 1}


def test_a_table_of_failures_alone_takes_no_finished_ones_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Runs, "_call", lambda self, arguments, out: 1)
    for module in (tables, common):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["table", "--seeds", "0", "--runs", str(tmp_path / "runs")])
    for place in ("runs", "results"):
        assert tables.main(lambda scale: Table(99, "No cell", (), {}), "a table") == 1, place
        assert "| teacher |" in capsys.readouterr().out
        text = (tmp_path / "table99.md").read_text()
        assert ("failed" in text) == (place == "runs"), "the first time, when there was none"
        (tmp_path / "table99.md").write_text("finished")


def test_a_table_without_the_weights_of_its_scale_is_finished_without_times(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Runs, "_call", lambda self, arguments, out: 1)
    monkeypatch.setattr(tables, "RESULTS", tmp_path)
    monkeypatch.setattr(tables, "write", lambda name, script, values: None)
    flags = ["--scale", "wan-14b", "--launch", "flc", "--seeds", "0", "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["table", *flags])
    kept = Cell("kept")
    for there in (False, True):
        if there:
            finish(Runs(tmp_path / "runs", Scale("wan-14b"), 1), kept, 0, 0.5, scores={"dynamic_degree": 0.5})
        assert tables.main(lambda scale: Table(99, "One cell", (kept,), {}), "a table") == 1, "the teacher's failed"
    assert "| kept | 4 |" in (tmp_path / "table99_wan-14b.md").read_text()
    assert "no row has a time" in capsys.readouterr().err


def test_averages_stand_also_as_differences_within_a_seed(tmp_path, monkeypatch):
    """Seeds are apart by .3, two rows of one seed by .01 and .03: the difference's spread is that of the latter."""
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: {})
    runs = Runs(tmp_path / "runs", TINY, 1)
    better, main = Cell("better", {"steps": 5}), Cell("main")
    for cell, averages in ((TEACHER, (0.1, 0.2)), (main, (0.4, 0.7)), (better, (0.41, 0.73))):
        for seed, average in enumerate(averages):
            plan = {"removal": {"pruned": 0.3 if cell is better else 0.2}}
            finish(runs, cell, seed, average, seconds=(90.0, 60.0)[seed], plan=plan)
    made = Table(99, "Three cells", (main, better), {}, reference="main", removal=True)
    values = tables.measure(made, runs, [0, 1])
    assert values["rows"]["better"]["removal"] == {"mean": 0.3, "spread": 0.0, "n": 2}
    ahead = values["rows"]["better"]["ahead"]
    assert ahead["mean"] == pytest.approx(0.02) and ahead["spread"] == pytest.approx(0.02 / 2**0.5)
    text = tables.markdown(values)
    assert "| less main's |" in text and "| +0.020 ± 0.014 | 0.300 ± 0.000 |" in text and "| -0.400 ± 0.141 |" in text
    assert "interval" not in text, "no clips were kept"


def test_rows_are_compared_clip_by_clip_and_none_is_ranked_within_its_interval(tmp_path, monkeypatch):
    """Three seeds that all rows go along with; `better` is ahead by .02 on every clip, `level` by .02 and behind by
    .02 in turn, `far` is a row that has collapsed."""
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: {})
    runs, main = Runs(tmp_path / "runs", TINY, 1), Cell("main")
    better, level, far = (Cell(name, {"steps": n}) for name, n in (("better", 5), ("level", 6), ("far", 7)))
    ahead = [(TEACHER, 0.01), (main, 0.0), (better, 0.02), (level, 0.0), (far, -0.5)]
    rng = np.random.default_rng(0)
    for seed in (0, 1, 2):
        clips = 0.9 - 0.01 * seed + 0.02 * rng.random(40)
        for number, (cell, more) in enumerate(ahead):
            turns = 0.02 * (-1) ** np.arange(40) if cell == level else 0.0
            noise = 0.001 * (-1) ** (seed + number) * (number > 1)  # of each seed's training
            own = clips + more + turns + noise
            finish(runs, cell, seed, float(own.mean()), per_clip={"caption_accuracy": own.tolist()})
    table = Table(99, "Five cells", (main, better, level, far), {}, reference="main")
    found = {label: row.get("ahead") for label, row in tables.measure(table, runs, [0, 1, 2])["rows"].items()}
    assert found["main"] is None, "nothing to compare it with"
    assert found["better"]["ranked"] and found["better"]["mean"] == pytest.approx(0.02, abs=2e-3)
    assert not found["level"]["ranked"] and (found["level"]["clips"], found["level"]["seeds"]) == (120, 3)
    assert found["far"]["ranked"] and found["far"]["half"] != found["better"]["half"], "its noise is not the others'"
    text = tables.markdown(tables.measure(table, runs, [0, 1, 2]))
    assert "(n = 120 clips of 3 seeds)" in text and "95% interval" in text
    level_row, better_row = (
        next(x for x in text.splitlines() if x.startswith(f"| {n} |")) for n in ("level", "better")
    )
    assert ", level |" in level_row and ", level |" not in better_row
    alone = tables.measure(table, runs, [0])["rows"]["better"]["ahead"]
    assert alone["half"] is None and not alone["ranked"] and "± unknown, level" in signed(alone)


def test_a_table_says_what_its_average_is_of_and_what_each_row_cost(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "interleaved", lambda folders, **more: {})
    runs, main = Runs(tmp_path / "runs", TINY, 1), Cell("main")
    for cell in (TEACHER, main):
        finish(runs, cell, 0, 0.5)
    values = tables.measure(Table(99, "Two cells", (main,), {}, reference="main"), runs, [0])
    assert values["averaged"] == list(AVERAGE) and values["clips"] == 2
    assert values["rows"]["main"]["block_evaluations"]["mean"] == 212, "12 of scoring, 100 in each training"
    assert values["rows"]["main"]["iterations"] == "240 + 320"
    text = tables.markdown(values)
    assert "The average is that of caption accuracy, " in text and "Commits abc; seeds 0, 2 clips a row" in text
    assert "| main | 4 | 0.00 | 240 + 320 | 0.2 |" in text


def test_a_row_of_fewer_seeds_says_how_many_and_why_and_a_score_missing_on_one_is_left_out():
    row = {"name": "student", "steps": 4, "guidance": 1.0, "parameters": 10, "average": 0.5}
    one, two = ({"caption_accuracy": 0.5, "diversity": v} for v in (None, 0.4))
    some = summary([row | {"scores": one}, row | {"scores": two}, {"error": "out of memory"}])
    assert set(some["scores"]) == {"caption_accuracy"} and some["average"]["n"] == 2
    paper = {"of": "Hunyuan", "notes": "Lips.", "columns": ["average", "lip sync"], "rows": {"x": [0.8, 1.5]}}
    paper_row = dict(zip(paper["columns"], paper["rows"]["x"], strict=True))
    some |= {"iterations": "4 + 5", "block_evaluations": {"mean": 9000.0}}
    values = {
        "title": "T",
        "averaged": ["caption_accuracy"],
        "clips": 4,
        "runs_of": ["abc"],
        "reference": "teacher",
        "seeds": [0, 1, 2],
        "rows": {"some": some},
        "paper": {"some": paper_row},
    }
    text = tables.markdown(values | {"paper_tables": {"table8": paper}})
    assert "some: of 2 of 3 seeds; out of memory" in text
    heading, ours = (next(x for x in text.splitlines() if x.startswith(f"| {name} |")) for name in ("", "some"))
    cells = dict(zip(heading.split(" | "), ours.split(" | "), strict=True))
    assert cells["lip sync"] == "n/a" and cells["average"].startswith("0.500")
    assert cells["paper: average (Hunyuan) |"] == "0.800 |" and "over" not in heading, "no dimensions of the paper's"
    assert "The paper's Table 8 (Hunyuan), as printed" in text and "| x | 0.800 | 1.500 |\n\nLips." in text
