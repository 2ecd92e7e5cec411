"""Figures from finished cells: what they read, what they draw, and that a failed cell is said."""

from __future__ import annotations

import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from benchmarks import fig1, fig2, fig4, fig7, figure, table
from benchmarks.cells import Scale
from benchmarks.render import lowest_shown
from benchmarks.runner import Runs
from flc.data.source import write_video
from tests.comparison.made import finish as made_of


def finish(runs: Runs, cell, seed: int, average: float) -> None:
    """What a run of the cell would leave, as far as figures look."""
    out = runs.path(cell, seed)
    kept = {"blocks": [0, 2] if seed else [0, 1]}
    plan = {"scores": {"blocks": [3.0, 0.1, 0.2 + seed]}, "kept": kept, "details": {"baseline": 0.05}}
    made_of(runs, cell, seed, average, plan=plan)
    videos = out / "evaluate" / "videos" / cell.row
    videos.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for index in (0, 7):
        write_video(videos / f"{index}.mp4", rng.random((9, 48, 48, 3)) * (index > 0))


@pytest.fixture
def made(tmp_path, monkeypatch):
    """`made(figure)`: exit code, what was written, the picture's size. `lost`: cells of which only what is kept of a
    run is there, as on another machine."""
    written: dict = {}
    monkeypatch.setattr(figure, "RESULTS", tmp_path)
    monkeypatch.setattr(figure, "write", lambda name, script, values: written.update(values))
    monkeypatch.setattr(table, "interleaved", lambda folders, **more: {n: [1.0, 2.0] for n in folders})
    monkeypatch.setattr(Runs, "_call", lambda self, arguments, out: 1)  # nothing is really run

    def make(module, fail=(), lost=(), seeds=(0, 1)):
        runs = Runs(tmp_path / "runs", Scale("tiny"), 1)
        cells = module.cells("tiny") if hasattr(module, "cells") else module.CELLS
        for number, cell in enumerate(cells):
            for seed in seeds:
                if cell not in fail or seed != seeds[0]:
                    finish(runs, cell, seed, 0.5 + 0.01 * number + 0.02 * seed)
                if cell in lost:
                    shutil.rmtree(runs.path(cell, seed))
        arguments = ["--seeds", *map(str, seeds), "--runs", str(tmp_path / "runs"), "--jobs", "1"]
        monkeypatch.setattr(sys, "argv", ["figure", *arguments])
        name = module.__name__.rpartition(".")[2]
        shows_clips = module is fig7
        code = figure.main(name, module.__doc__, cells, module.measure, module.draw, module.markdown, shows_clips)
        if not (tmp_path / f"{name}.png").exists():
            return code, written, None
        with Image.open(tmp_path / f"{name}.png") as picture:
            return code, written, picture.size

    return make


def test_fig1_has_every_point_of_the_grid_with_its_spread(made):
    code, values, size = made(fig1)
    assert code == 0 and min(size) > 300
    point = values["points"][1]
    assert (point["steps"], point["keep"]) == (1, 0.5)
    assert point["average"]["mean"] == pytest.approx(0.52) and point["average"]["n"] == 2


def test_fig1_without_one_cell_is_drawn_says_which_and_fails(made, tmp_path, capsys):
    code, values, _ = made(fig1, fail=[fig1.CELLS[4]])
    assert code == 1 and "2 steps, 30% of the blocks, seed 0 failed" in capsys.readouterr().out
    assert values["points"][4]["average"]["n"] == 1
    text = (tmp_path / "fig1.md").read_text()
    assert "| 30% of the blocks | 0.510 ± 0.014 / 0.500 ± 0.000 / n/a | 0.560 / 0.500 /" in text, (
        "one run has no spread"
    )
    assert "2 steps, 30% of the blocks, seed 0 failed: not run" in text


def test_fig2_keeps_the_papers_points_apart(made, tmp_path):
    code, values, _ = made(fig2)
    assert code == 0 and values["points"]["teacher"]["seconds"]["mean"] == 1.5
    text = (tmp_path / "fig2.md").read_text()
    assert "| teacher | 1.500 ± 0.707 | 0.510 ± 0.014 | 0.500 ± 0.000 | n/a |" in text
    assert text.index("measured here") < text.index("printed in the paper") < text.index("| dmd2 | 35.4 | 0.716 |")
    assert values["paper"]["dmd2"] == {"seconds": 35.4, "average": 0.716}
    assert values["points"]["dmd2"]["average"]["mean"] != 0.716


def boxes(drawing, axes, texts):
    drawing.canvas.draw()
    return [text.get_window_extent() for text in texts], axes.get_window_extent()


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """`drawn(figure, values)`: the drawing, as it is saved."""
    kept = []
    plain = figure.save
    monkeypatch.setattr(figure, "save", lambda drawing, path: (plain(drawing, path), kept.append(drawing)))

    def make(module, values):
        module.draw(values, None, tmp_path / "figure.png")
        return kept[-1]

    return make


def test_fig1_has_its_numbers_inside_the_axes_and_off_the_tick_labels(drawn):
    points = [{"steps": s, "keep": k, "average": {"mean": 0.9 + s / 100, "spread": 0.0, "n": 3}}
              for s in fig1.STEPS for k in fig1.KEEPS]  # fmt: skip
    drawing = drawn(fig1, {"points": points})
    axes = drawing.axes[0]
    numbers, inside = boxes(drawing, axes, axes.texts)
    assert len(numbers) == len(points)
    for box in numbers:
        assert inside.x0 < box.x0 and box.x1 < inside.x1 and inside.y0 < box.y0 and box.y1 < inside.y1


def test_fig2_tells_rows_of_one_time_apart_by_markers_that_the_legend_names(drawn):
    """dmd2, lcm and magic take the same time: names beside their points would overprint."""
    same = {"seconds": {"mean": 0.1, "spread": 0.0}, "average": {"mean": 0.9, "spread": 0.0}}
    points = {cell.label: same for cell in fig2.cells("tiny")}
    drawing = drawn(fig2, {"points": points, "paper": {"dmd2": {"seconds": 35.4, "average": 0.7}}})
    ours, theirs = drawing.axes
    assert not ours.texts and not theirs.texts
    legend = theirs.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(points)
    looks = {handle.get_label(): (handle.get_marker(), handle.get_color()) for handle in legend.legend_handles}
    assert len(set(looks.values())) == len({marker for marker, _ in looks.values()}) == len(points)
    assert (theirs.lines[0].get_marker(), theirs.lines[0].get_color()) == looks["dmd2"], "one look in both panels"
    box = legend.get_window_extent()
    assert box.x1 <= drawing.bbox.x1 and box.x0 >= theirs.get_window_extent().x1, "beside the axes, and whole"


def test_fig4_is_the_mean_over_seeds_of_the_error_without_each_block(made, tmp_path):
    _, values, _ = made(fig4)
    assert [e["mean"] for e in values["error_without"]["blocks"]] == pytest.approx([3.0, 0.1, 0.7])
    assert values["kept_in_seeds"]["blocks"] == [2, 1, 1] and values["error_with_all"]["mean"] == 0.05
    assert "| blocks 2 | 0.700 ± 0.707 | 1 |" in (tmp_path / "fig4.md").read_text()


def test_fig7_shows_the_last_clip_of_each_beta_and_how_much_it_changes(made, tmp_path):
    code, values, size = made(fig7, seeds=(2, 0))
    assert code == 0 and size[1] > size[0] / 2, "one line of frames each"
    assert values["seeds"] == [2] and "| clip of seed 2 |" in (tmp_path / "fig7.md").read_text(), "of the first alone"
    assert [line["label"] for line in values["lines"]][:2] == ["teacher", "beta2 0"]
    for line in values["lines"]:
        assert line["video"].endswith("/7.mp4") and not line["video"].startswith("/")
        assert f"| {line['label']} | {line['change']:.4f} |" in (tmp_path / "fig7.md").read_text()
        assert 0.1 < line["change"] < 0.4  # independent uniform noise changes by 1/3, less after H.264


def test_fig7_says_of_which_cells_the_clips_could_not_be_made_again(made, tmp_path, capsys):
    """What is kept of a run has no clips: a run that fails here is no success, whatever is kept of another one."""
    lost = fig7.cells("tiny")[1]
    code, values, _ = made(fig7, lost=[lost], seeds=(0,))
    assert code == 1 and f"{lost.label}, seed 0 failed: " in capsys.readouterr().out
    assert "beta2 0" not in [line["label"] for line in values["lines"]] and list(values["errors"]) == [
        f"{lost.label}, seed 0"
    ]


def test_fig7_without_any_clip_says_so_and_draws_nothing(made, capsys):
    code, values, size = made(fig7, lost=fig7.cells("tiny"), seeds=(0,))
    assert code == 1 and size is None and not values
    assert capsys.readouterr().out.count(" failed: ") == len(fig7.cells("tiny"))


def test_a_row_far_below_the_others_does_not_set_the_axis():
    assert lowest_shown([0.96, 0.54, 0.95, 0.955]) == 0.95
    assert lowest_shown([0.96, 0.9, 0.95, 0.955, 0.52, 0.54]) == 0.9, "two of six"
    assert lowest_shown([0.96, 0.93, 0.95]) == 0.93, "not far"
    assert lowest_shown([0.9, 0.1]) == 0.1 and lowest_shown([0.7]) == 0.7, "nobody to be far from"
