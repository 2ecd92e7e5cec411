"""The page of a fake but realistic run: six blocks, two stages of training, three rows, tiny mp4s."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from flc.data.source import drawn_clips, write_video
from flc.errors import UserError
from flc.recipe import Recipe, lock_text
from flc.report.axis import Around, Axis, baseline_axis, value_axis
from flc.report.load import read_log
from flc.report.page import write_report
from flc.report.svg import smoothed, thinned

BLOCKS, ROWS, SHOWN = 6, ("teacher-many", "pruned", "student"), (0, 3)
VOID = {"meta", "link", "br", "col", "img", "hr", "input"}


class Page(HTMLParser):
    """Fails on a tag that is not closed in order; keeps tags, classes, attributes and texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.classes: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.classes.update((dict(attrs).get("class") or "").split())
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


def scores(shift: float) -> dict[str, float | None]:
    names = ("caption_accuracy", "dynamic_degree", "motion_smoothness", "distribution", "diversity")
    return {n: round(0.95 - shift - 0.02 * i, 3) for i, n in enumerate(names)} | {"first_frame_fidelity": None}


def fake_metrics() -> dict:
    rows = [
        {"name": name, "title": f"{name}, {steps} steps", "steps": steps, "guidance": guidance, "parameters": size,
         "seconds": seconds, "average": 0.93 - shift, "scores": scores(shift), "notes": {"diversity": 'd = "0.1"'}}
        for name, steps, guidance, size, seconds, shift in (
            ("teacher-many", 50, 5.0, 2_000_000, 0.8, 0.0),
            ("pruned", 50, 5.0, 1_400_000, 0.6, 0.5),
            ("student", 4, 1.0, 1_400_000, 0.05, 0.03),
        )
    ]  # fmt: skip
    captions = ["a red circle moving left", "<b>bold</b> & 'quoted'", "x", "see https://example.org/a.css"]
    return {
        "rows": rows,
        "metrics": [{"name": n, "summary": f"what {n} is", "in_average": n not in ("distribution", "diversity")}
                    for n in rows[0]["scores"]],
        "clips": 4, "seed": 0, "hardware": {"cpu": "A <CPU>", "threads": 2, "torch": "2.15"},
        "versions": {"python": "3.12", "torch": "2.15"},
        "prompts": [{"caption": c, "seed": 100 + i, "given": i == 0} for i, c in enumerate(captions)],
    }  # fmt: skip


def fake_plan() -> dict:
    blocks = [3.1, 0.09, 0.055, 0.06, 0.052, 0.4]
    return {
        "pruner": "elbo", "keep": 0.7, "kept": {"blocks": [0, 1, 3, 5]}, "scores": {"blocks": blocks},
        "weights": {"blocks": [200_000] * BLOCKS}, "share": 4 / 6,
        "channels": {"blocks": [[0, 1, 4]] * BLOCKS}, "block_evaluations": 4321,
        "removal": {"clips": 64, "whole": 0.05, "pruned": 0.12},
        "details": {"baseline": 0.05, "samples": 96, "ranking": "one-shot",
                    "interval": {"blocks": [[b - 0.05 - 0.004, b - 0.05 + 0.004] for b in blocks]}},
    }  # fmt: skip


def log_lines(keys: tuple[str, ...], seed: int, count: int = 60) -> str:
    """Falling noisy curves; every fifth line lacks the last key, the last line is cut off."""
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(1, count + 1):
        present = keys if i % 5 else keys[:-1]
        lines.append(json.dumps({"step": 10 * i} | {k: float(np.exp(-i / 20 + 0.3 * rng.normal())) for k in present}))
    return "\n".join([*lines, '{"step": 61'])


RECOVER = ("student/loss", "student/grad_norm", "student/distil")
DISTILL = ("fake/loss", "fake/grad_norm", "student/loss", "student/grad_norm")


@pytest.fixture(scope="session")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder, out = tmp_path_factory.mktemp("mp4"), []
    for i, (video, _) in enumerate(drawn_clips(len(SHOWN) * len(ROWS), 5, 16, 16, seed=0)):
        write_video(folder / f"{i}.mp4", video, scale=2)
        out.append((folder / f"{i}.mp4").read_bytes())
    return out


@pytest.fixture
def run(tmp_path: Path, mp4: list[bytes]) -> Path:
    out = tmp_path / "run & <co>"
    for stage in ("score", "recover", "distill"):
        (out / stage).mkdir(parents=True)
    (out / "recipe.lock.yaml").write_text(lock_text(Recipe()))
    (out / "score/plan.json").write_text(json.dumps(fake_plan()))
    (out / "recover/log.jsonl").write_text(log_lines(RECOVER, 0))
    (out / "distill/log.jsonl").write_text(log_lines(DISTILL, 1))
    (out / "metrics.json").write_text(json.dumps(fake_metrics()))
    contents = iter(mp4)
    for row in ROWS:
        (out / "evaluate/videos" / row).mkdir(parents=True)
        for index in SHOWN:
            (out / "evaluate/videos" / row / f"{index}.mp4").write_bytes(next(contents))
    return out


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text())


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_the_page_has_its_sections_and_every_tag_is_closed(run: Path) -> None:
    path = write_report(run)
    assert path == run / "report.html"
    html = path.read_text()
    headings = [
        "What was done",
        "The result",
        "Clips side by side",
        "Which blocks matter",
        "Training",
        "Repeat this run",
    ]
    assert re.findall(r"<h2>(.*?)</h2>", html) == headings
    assert "missing" not in Page(html).classes
    assert [p.name for p in run.iterdir() if p.name.startswith(".")] == []


def test_what_was_done_tells_updates_and_the_teachers_guidance(run: Path) -> None:
    recipe = Recipe(teacher={"name": "well-guided", "beta1": 1.5, "beta2": 0.25}, distill={"iterations": 90})
    (run / "recipe.lock.yaml").write_text(lock_text(recipe))
    assert "updates of the student" not in Page(write_report(run).read_text()).text, "nothing tells them"
    (run / "distill/done.json").write_text(json.dumps({"iterations": 90, "updates": 17}))
    (run / "recover/done.json").write_text("{")
    text = Page(write_report(run).read_text()).text
    assert "taught by well-guided (beta1 1.5, beta2 0.25), 90 iterations (17 updates of the student)" in text


def test_nothing_is_requested_from_elsewhere(run: Path) -> None:
    html = write_report(run).read_text()
    page = Page(html)
    references = [value for _, name, value in page.attributes if name in {"src", "href", "srcset", "poster", "data"}]
    assert references and all(r.startswith("data:") for r in references)
    assert not {"script", "iframe", "object", "img"} & set(page.tags)
    assert "url(" not in html and "@import" not in html
    assert "default-src 'none'" in next(v for tag, name, v in page.attributes if tag == "meta" and "src" in v)


def test_texts_are_escaped(run: Path) -> None:
    metrics = fake_metrics()
    metrics["prompts"][3]["caption"] = "<b>bold</b> & 'quoted'"
    (run / "metrics.json").write_text(json.dumps(metrics))
    lock = run / "recipe.lock.yaml"
    lock.write_text(lock.read_text() + "# </code><script>alert(1)</script>\n")
    page = page_of(run)
    assert "<b>bold</b> & 'quoted'" in page.text and "A <CPU>" in page.text and "<script>" in page.text
    assert page.tags["b"] == 3  # the tiles' own


#: Ends an attribute and an element, begins others; no "/", so that a folder can be called so.
HOSTILE = "\"'><script onload=x>alert(1)<!-- ]]> &lt; {{ x }}"
#: Names, among the keys of a run's files, of what others make: blocks, metrics, logged values, packages.
NAMES = {"blocks", "caption_accuracy", "torch", "beta1", *RECOVER, *DISTILL}


def spoilt(value: Any) -> Any:
    """With hostile text after every text and name."""
    if isinstance(value, dict):
        return {key + HOSTILE * (key in NAMES): spoilt(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [spoilt(inner) for inner in value]
    return value + HOSTILE if isinstance(value, str) else value


def test_no_text_of_a_run_becomes_markup_wherever_it_stands(run: Path) -> None:
    pair = {"label": "LPIPS", "rows": ["teacher-many", "student"], "value": 0.1}
    (run / "metrics.json").write_text(json.dumps(fake_metrics() | {"instead_of": "vbench", "pairs": [pair]}))
    recipe = Recipe(model="some/model", data="clips", teacher={"name": "well-guided", "beta1": 1.5})
    (run / "recipe.lock.yaml").write_text(lock_text(recipe))
    plain = page_of(run)
    for name in ("metrics.json", "score/plan.json", "recover/log.jsonl", "distill/log.jsonl", "recipe.lock.yaml"):
        text = (run / name).read_text()
        if name.endswith("jsonl"):
            said = "\n".join(json.dumps(spoilt(json.loads(line))) for line in text.splitlines()[:-1])
        else:
            said = json.dumps(spoilt(yaml.safe_load(text)))  # JSON is YAML, too
        (run / name).write_text(said)
    for folder in list((run / "evaluate/videos").iterdir()):
        folder.rename(folder.with_name(folder.name + HOSTILE))
    whole = run.rename(run.with_name(run.name + HOSTILE))
    page = page_of(whole)
    assert {(tag, name) for tag, name, _ in page.attributes} == {(tag, name) for tag, name, _ in plain.attributes}
    assert page.tags["video"] == plain.tags["video"] and set(page.tags) == set(plain.tags)
    said = page.text + "\n".join(value for *_, value in page.attributes)
    for text in (whole.name, "some/model", "clips", "elbo", "blocks", "well-guided", "student, 4 steps", "A <CPU>",
                 "a red circle moving left", "caption accuracy", "what caption_accuracy is", 'd = "0.1"', "LPIPS",
                 "vbench", "student/distil", "2.15", "torch"):  # fmt: skip
        assert text.removesuffix(HOSTILE) + HOSTILE in said, text


def test_every_video_file_is_embedded_as_it_is(run: Path, mp4: list[bytes]) -> None:
    import base64

    (run / "evaluate/videos/pruned/notes.mp4").write_bytes(b"not one of ours")
    page = page_of(run)
    embedded = [v for tag, name, v in page.attributes if (tag, name) == ("video", "src")]
    assert sorted(base64.b64decode(v.split(",", 1)[1]) for v in embedded) == sorted(mp4)
    for attribute in ("controls", "autoplay", "loop", "muted", "playsinline"):
        assert sum(tag == "video" and name == attribute for tag, name, _ in page.attributes) == len(mp4)


def test_a_video_that_is_not_there_leaves_its_cell_empty(run: Path) -> None:
    (run / "evaluate/videos/pruned/3.mp4").unlink()
    assert page_of(run).tags["video"] == len(SHOWN) * len(ROWS) - 1


def test_the_student_is_the_last_column_and_the_teacher_the_first(run: Path) -> None:
    change(run / "metrics.json", rows=fake_metrics()["rows"][::-1])
    html = write_report(run).read_text()
    head = re.search(r'<table class="clips"><thead>(.*?)</thead>', html)
    assert head and re.findall(r">([a-z-]+), \d+ steps<", head[1]) == ["teacher-many", "pruned", "student"]


def test_one_bar_and_one_whisker_per_block_in_the_colour_of_its_fate(run: Path) -> None:
    page = page_of(run)
    assert page.classes["bar"] == page.classes["whisker"] == BLOCKS
    fates = Counter(v for tag, name, v in page.attributes if tag == "rect" and name == "class")
    assert fates == {"bar kept": 4, "bar removed": 2}
    assert page.classes["baseline"] == 1 and "logarithmic" in page.text  # differences of .002 to 3


@pytest.mark.parametrize(
    "details", [{}, {"baseline": 0.1}, {"interval": {"blocks": [[0, 1]]}}, {"baseline": "?"}, None]
)
def test_a_third_party_plan_needs_scores_only(run: Path, details: dict | None) -> None:
    change(run / "score/plan.json", details=details, scores={"blocks": [0, -1.5, None, float("nan"), 2, 3]}, weights={})
    page = page_of(run)
    assert page.classes["bar"] == BLOCKS and page.classes["whisker"] == 0


def test_what_all_removals_together_cost_is_said(run: Path) -> None:
    said = "With all that goes gone at once the error of x0 (Eq 4) is 0.12, against 0.05 for the whole network, over 64"
    assert said in write_report(run).read_text()
    change(run / "score/plan.json", removal=None)
    assert "gone at once" not in write_report(run).read_text()


def test_a_plan_without_scores_says_so(run: Path) -> None:
    change(run / "score/plan.json", scores={})
    assert page_of(run).classes["missing"] == 1


def test_a_curve_for_every_key_of_every_stage(run: Path) -> None:
    page = page_of(run)
    assert page.classes["mean"] == len(RECOVER) + len(DISTILL)
    curves = read_log(run / "recover/log.jsonl")
    assert curves is not None and [len(curves[k]) for k in RECOVER] == [60, 60, 48]


@pytest.mark.parametrize("name", ["recover/log.jsonl", "distill/log.jsonl", "score/plan.json", "recipe.lock.yaml"])
def test_a_missing_part_is_named_in_its_section(run: Path, name: str) -> None:
    (run / name).unlink()
    page = page_of(run)
    assert page.classes["missing"] >= 1 and name in page.text


def test_metrics_alone_make_a_page(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text(json.dumps({"rows": [{"name": "other"}]}))
    assert page_of(tmp_path).classes["missing"] >= 5


@pytest.mark.parametrize("text", [None, "{", "[]", '{"rows": 3}'])
def test_without_metrics_it_is_the_users_to_evaluate(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "metrics.json").write_text(text)
    with pytest.raises(UserError, match=r"run `flc evaluate`") as error:
        write_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_headline_compares_student_and_teacher(run: Path) -> None:
    tiles = page_of(run).text.split("The result")[1].split("steps\nguidance")[0]
    assert "16.0×" in tiles  # .8 / .05 seconds
    assert "70 %" in tiles  # 1.4 of 2.0 million
    assert "0.900" in tiles and "teacher 0.930" in tiles
    assert "distribution 0.860 (teacher 0.890)" in tiles and "diversity 0.840 (teacher 0.870)" in tiles


def test_the_clips_from_text_alone_have_a_table_of_their_own(run: Path) -> None:
    metrics = fake_metrics()
    for row in metrics["rows"]:
        row["text_only"] = {"average": row["average"] - 0.111, "motion_smoothness": 0.4321}
        row["first_frame"] = {"average": row["average"] + 0.1, "motion_smoothness": 0.98}
    (run / "metrics.json").write_text(json.dumps(metrics))
    html = write_report(run).read_text()
    assert Page(html) and "Clips from text alone, 3 of 4." in html
    apart = html.partition("Clips from text alone")[2].partition("</table>")[0]
    assert re.findall(r'scope="col"[^>]*>([^<]*)<', apart) == ["average", "motion smoothness"]
    assert re.findall(r"<td[^>]*>([^<]*)<", apart) == ["0.819", "0.432", "0.319", "0.432", "0.789", "0.432"]
    change(run / "metrics.json", rows=[row | {"text_only": {}, "first_frame": {}} for row in metrics["rows"]])
    assert "Clips from text alone" not in write_report(run).read_text(), "all clips are of one kind"


def test_the_guards_stand_beside_the_average_even_when_not_measured(run: Path) -> None:
    order = r'scope="col" class="first">average</th><th scope="col">distribution</th><th scope="col">diversity</th>'
    assert re.search(order, write_report(run).read_text())
    change(run / "metrics.json", metrics=[])
    assert re.search(order, write_report(run).read_text())


def test_a_distance_between_rows_stands_in_the_second_ones_line_under_its_label(run: Path) -> None:
    label = "LPIPS to teacher-many (random backbone, lower is better)"
    change(run / "metrics.json", pairs=[{"label": label, "rows": ["teacher-many", "student"], "value": 0.125}])
    html = write_report(run).read_text()
    assert f'scope="col" class="first">{label}</th>' in html and html.count(">0.125</td>") == 1
    assert html.index(">0.125</td>") > html.index('<tr class="student">'), "and not marked as the best of anything"


def test_vbenchs_suites_have_no_guards(run: Path) -> None:
    change(
        run / "metrics.json", suite="vbench-i2v", metrics=[{"name": "i2v_subject", "summary": "s", "in_average": True}]
    )
    text = page_of(run).text
    assert "i2v subject" in text and "distribution" not in text.split("The result")[1].split("Clips side by side")[0]
    change(run / "metrics.json", suite="shapes", instead_of="vbench-i2v")
    assert "The suite vbench-i2v was asked for and could not be measured" in page_of(run).text


def test_the_best_of_a_column_is_marked_where_rows_differ(run: Path) -> None:
    html = write_report(run).read_text()
    marked = re.findall(r'<td class="(?:first )?best"[^>]*>(.*?)</td>', html)
    # parameters (a tie of two), seconds, then average, two guards and three metrics: all the teacher's
    assert sorted(marked) == sorted(["1.40", "1.40", "0.050", "0.930", "0.890", "0.870", "0.950", "0.930", "0.910"])


def test_axis_is_logarithmic_beyond_a_ratio_of_thirty() -> None:
    assert value_axis([1, 31], 0, 1).log and not value_axis([1, 29], 0, 1).log and not value_axis([-1, 100], 0, 1).log
    axis = Axis(0.01, 100.0, 0.0, 4.0, log=True)
    assert [axis(t) for t, _ in axis.ticks()] == pytest.approx([0, 1, 2, 3, 4])
    assert Axis(0.0, 8.0, 100.0, 0.0)(2.0) == 75.0 and Axis(0.0, 8.0, 0.0, 1.0).steps(4) == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("values", [[0.0], [5.0, 5.0], [-2.0], [1e-12, 1.0], [1e30, -1e30]])
def test_axis_of_any_values_contains_them(values: list[float]) -> None:
    axis = value_axis(values, 100.0, 0.0)
    assert all(0 <= axis(v) <= 100 for v in values) and axis.ticks()


def test_around_a_baseline_both_signs_and_small_differences_are_seen() -> None:
    axis = baseline_axis([0.0499, 0.051, 4.0], [1e-4, 1e-4, 0.1], 0.05, 0.0, 100.0)
    assert isinstance(axis, Around)
    below, at, little, much = (axis(v) for v in (0.0499, 0.05, 0.051, 4.0))
    assert 0 < below < at < little < much < 100 and little - at > 10
    assert dict((t, v) for v, t in axis.ticks(5))["+1"] == pytest.approx(1.05)
    near = baseline_axis([1.1, 1.2, 0.9], [], 1.0, 0.0, 100.0)
    assert isinstance(near, Axis) and not near.log


@pytest.mark.parametrize("values", [[1.0], [1.0, 1.0], [1.0, 5.0], [-1e9, 1.0, 1.0 + 1e-12]])
@pytest.mark.parametrize("errors", [[], [0.0], [1e-3]])
def test_axis_around_a_baseline_contains_it_and_all_values(values: list[float], errors: list[float]) -> None:
    axis = baseline_axis(values, errors, 1.0, 0.0, 100.0)
    assert all(0 <= axis(v) <= 100 for v in [*values, 1.0]) and axis.ticks(5)


def test_long_curves_are_thinned_and_a_line_stays_a_line() -> None:
    line = [(float(i), 3.0 * i) for i in range(5000)]
    assert len(thinned(line)) == 500
    assert all(y == pytest.approx(3 * x) for x, y in smoothed(thinned(line))[:-20])  # 500 // 24 at the end are cut off
