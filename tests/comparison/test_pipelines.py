"""Pipelines as they come, timed in turn: what Table 1 and the tables' times rest on."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import table1, timing
from benchmarks.cells import Scale
from benchmarks.pipelines import Contestant, Stock, clips, seconds
from benchmarks.records import Record
from benchmarks.render import GUARDS
from flc.data.shapes import draw, sample_spec
from flc.data.source import drawn_clips
from flc.errors import UserError
from flc.evaluate.manifest import Shot
from flc.evaluate.sampling import make_prompts
from flc.models.folder import EMBEDDED

SIZE = (5, 48, 48)
#: Of the reference some captions twice: there are 144.
FEW = ["--set", "evaluate.clips=4", "evaluate.reference=160"]


def suite(**given):
    flags = {"scale": "tiny", "runs": Path("runs"), "suite": None, "manifest": None, "vbench_python": None}
    flags |= {"model": None, "data": None, "set": [], "launch": ""}
    made = table1.suite_of(Namespace(**flags | given))
    return replace(made, asked=table1.prompts(made))


@pytest.fixture
def stock():
    return Stock(Contestant("teacher", EMBEDDED, steps=2, guidance=2.0), "cpu", "float32")


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "first.png"
    first = draw(sample_spec(np.random.default_rng(0), "a blue star moving up"))[0]
    Image.fromarray((first * 255).round().astype(np.uint8)).save(path)
    return path


def test_a_contestant_is_read_as_it_is_written():
    read = Contestant.read("cog=CogVideoX-5b,steps=50,guidance=6")
    assert (read.name, str(read.folder), read.steps, read.guidance) == ("cog", "CogVideoX-5b", 50, 6.0)
    assert Contestant.read("a=b").steps is None
    for wrong in ("cog", "=b", "a=", "a=b,shift=3", "a=b,steps=many", "a=b,steps"):
        with pytest.raises(UserError, match="--pipelines"):
            Contestant.read(wrong)


def test_clips_are_the_stock_pipelines_with_and_without_a_first_frame(stock, image, adapter):
    shots = [Shot("a red circle moving left", 0, 3, None), Shot("a red circle moving left", 0, 3, image)]
    videos = clips(stock, shots, SIZE)
    assert videos.shape == (2, *SIZE, 3)
    pipe = adapter.stock_pipeline(EMBEDDED, False)
    pipe.set_progress_bar_config(disable=True)
    size = {"height": 48, "width": 48, "num_frames": 5, "num_inference_steps": 2, "guidance_scale": 2.0}
    torch.manual_seed(3)
    alone = pipe("a red circle moving left", **size, output_type="np").frames[0]
    assert np.abs(videos[0] - alone).max() < 1e-3  # its text encoder is read in half precision when nobody asks
    first = np.asarray(Image.open(image)) / 255
    # a given frame comes back through the autoencoder, which is off by three 8-bit levels on average
    assert np.abs(videos[1][0] - first).mean() < 0.02 < np.abs(videos[0][0] - first).mean()
    assert stock.parameters == sum(p.numel() for p in adapter.transformer.parameters())


def test_what_nobody_says_is_the_folders_own(tmp_path):
    told = Stock(Contestant("teacher", EMBEDDED), "cpu", "float32")
    assert told.settings(False) == {"num_inference_steps": 50, "guidance_scale": 2.0}
    with pytest.raises(UserError, match="nowhere is no folder"):
        Stock(Contestant("absent", tmp_path / "nowhere"), "cpu", "float32")
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(UserError, match="does not load"):
        Stock(Contestant("empty", tmp_path), "cpu", "float32").settings(False)


def test_a_row_that_fails_says_why_and_the_table_is_finished(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table1, "RESULTS", tmp_path)
    written = {}
    monkeypatch.setattr(table1, "write", lambda name, script, values: written.update(values))
    rows = [f"good={EMBEDDED},steps=1,guidance=1", f"bad={tmp_path / 'nowhere'}"]
    monkeypatch.setattr(sys, "argv", ["table1", "--seeds", "0", "1", "--pipelines", *rows, *FEW])
    assert table1.main() == 1
    good = written["rows"]["good"]
    assert good["average"]["n"] == 2 and good["num_inference_steps"] == 1
    assert good["scores"].keys() >= {"sharpness", "first_frame_fidelity", *GUARDS}, "guards beside every average"
    assert (written["scale"], written["runs_of"]) == ("tiny", []), "none was trained"
    text = (tmp_path / "table1.md").read_text()
    assert "| bad | failed:" in text and "nowhere" in text and "| FastLightGen | 0.952 |" in text
    assert text in capsys.readouterr().out


def test_drawn_prompts_are_those_of_a_runs_own_evaluation(tmp_path):
    """Two clips a caption, each from a seed of its own, the first half of the captions with their first frame."""
    asked, made, reference = table1.drawn_shots(suite(set=FEW[1:]), 3, tmp_path)
    own = make_prompts(list(drawn_clips(2, 17, 48, 48, 3 + 7919)), 2, 0.5, 3)
    assert [(s.prompt, s.seed) for s in asked] == list(zip(own.captions, own.seeds, strict=True))
    assert [s.image is not None for s in asked] == own.given.tolist() == [True, True, False, False]
    assert asked[0].prompt == asked[1].prompt and asked[0].seed != asked[1].seed and asked[0].prompt != asked[2].prompt
    assert np.abs(np.asarray(Image.open(asked[1].image)) / 255 - own.first[1]).max() < 0.51 / 255
    assert (made.first == own.first).all() and len(reference) == 160
    assert reference.captions == tuple(caption for _, caption in drawn_clips(160, 17, 48, 48, 3 + 104_729))


def test_a_scales_own_suite_and_prompts_are_asked_for_without_a_flag(tmp_path):
    """As `benchmarks.all` starts it: the scale and `--set evaluate.*` are enough, and a flag comes before them."""
    entry = {"prompt_en": "a boat", "dimension": ["aesthetic_quality"]}
    (tmp_path / "VBench_full_info.json").write_text(json.dumps([entry]))
    (tmp_path / "python").write_text("")
    said = [f"evaluate.vbench_data={tmp_path}", f"evaluate.vbench_python={tmp_path / 'python'}"]
    made = suite(scale="wan-14b", set=said)
    assert (made.options.suite, made.size, made.recipe.dtype) == ("vbench", (81, 480, 832), "bfloat16")
    assert [a.prompt for a in made.asked] == ["a boat"] and made.options.vbench_python == str(tmp_path / "python")
    (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a tree"}) + "\n")
    other = suite(scale="wan-14b", set=said, manifest=tmp_path / "m.jsonl")
    assert [a.prompt for a in other.asked] == ["a tree"]


def test_a_pipeline_is_asked_at_its_own_size_with_images_of_its_aspect_ratio(tmp_path):
    entry = {"prompt_en": "a boat", "dimension": ["i2v_subject"], "image_name": "boat.jpg"}
    (tmp_path / "vbench2_i2v_full_info.json").write_text(json.dumps([entry]))
    (tmp_path / "python").write_text("")
    for ratio in ("16-9", "1-1"):
        (tmp_path / "data" / "crop" / ratio).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / "data" / "crop" / ratio / "boat.jpg")
    said = [f"evaluate.vbench_data={tmp_path}", f"evaluate.vbench_python={tmp_path / 'python'}"]
    made = suite(scale="wan-ti2v-5b", set=said)
    square = made.of(Contestant.read("square=S,frames=49,height=480,width=480"))
    assert (made.size, square.size) == ((121, 704, 1280), (49, 480, 480))
    assert [s.asked[0].image.parent.name for s in (made, square)] == ["16-9", "1-1"]
    assert made.of(Contestant.read("wan=W,steps=4")) is made
    with pytest.raises(UserError, match="at one size"):
        suite().of(Contestant.read("a=b,frames=9"))


def test_results_of_another_suite_than_the_scales_go_to_a_file_of_their_own(tmp_path, image):
    (tmp_path / "m.jsonl").write_text(json.dumps({"prompt": "a tree"}) + "\n")
    (tmp_path / "i.jsonl").write_text(json.dumps({"prompt": "a tree", "image": image.name}) + "\n")

    def name(scale, chosen, manifest):
        made = suite(scale=scale, suite=chosen, manifest=manifest and tmp_path / manifest)
        return table1.name_of(Namespace(scale=scale, model=None, data=None, set=[], launch=""), made)

    assert name("tiny", None, None) == name("tiny", "shapes", None) == "table1"
    assert name("wan-ti2v-5b", None, "i.jsonl") == name("wan-ti2v-5b", "vbench-i2v", "i.jsonl") == "table1_wan-ti2v-5b"
    assert name("wan-ti2v-5b", "vbench", "m.jsonl") == "table1_wan-ti2v-5b_vbench"


def test_times_of_pipelines_are_taken_in_turn_and_one_without_a_time_keeps_its_row(monkeypatch, capsys):
    seen = []

    def seconds(stock, shots, size):
        seen.append((stock.contestant.name, len(shots)))
        if stock.contestant.name == "odd":
            raise IndexError("no such step")
        return float(len(seen))

    monkeypatch.setattr(table1, "seconds", seconds)
    names = ("a", "odd", "b", "failed")
    rows = {name: {"error": "why"} if name == "failed" else {"average": 0.5} for name in names}
    rows["a"]["error"] = "of another seed"
    monkeypatch.setattr(Scale, "read", lambda self: {"timing": {"rounds": 2, "clips": 3}})
    table1.add_times(rows, {name: Contestant(name, EMBEDDED) for name in names}, suite())
    assert seen == [("a", 3), ("odd", 3), ("b", 3), ("a", 3), ("b", 3)]
    assert rows["a"]["seconds"]["mean"] == 2.5 and rows["b"]["seconds"]["n"] == 2
    assert rows["odd"] == {"average": 0.5} and "odd has no time: IndexError" in capsys.readouterr().err


def test_a_pipeline_is_warm_before_its_time_is_taken(stock):
    """Its steps, seen by the scheduler: a short call first, then each shot's own."""
    asked = []
    pipe = stock.pipe(False)
    plain = pipe.scheduler.set_timesteps
    pipe.scheduler.set_timesteps = lambda steps, **more: asked.append(steps) or plain(steps, **more)
    long = Stock(Contestant("teacher", EMBEDDED, steps=3, guidance=1.0), "cpu", "float32")
    long.loaded = stock.loaded
    shot = Shot("a red circle moving left", 0, 3, None)
    assert seconds(long, [shot, shot], SIZE) > 0 and asked == [2, 3, 3]


def test_vbenchs_suites_leave_videos_in_its_layout_and_take_its_json_when_they_are_run_again(
    tmp_path, image, monkeypatch, capsys
):
    """The whole command, twice: without VBench the row says what is missing; with its JSON the values stand there."""
    (tmp_path / "prompts.jsonl").write_text(
        json.dumps({"prompt": "a red circle moving left", "image": image.name}) + "\n"
    )
    (tmp_path / "small.yaml").write_text(
        "frames: 5\nheight: 48\nwidth: 48\ntiming: {rounds: 2, clips: 1}\nevaluate: {suite: vbench-i2v}\n"
    )
    monkeypatch.setattr("benchmarks.cells.SCALES", tmp_path)
    monkeypatch.setattr(table1, "RESULTS", tmp_path)
    written = {}
    monkeypatch.setattr(table1, "write", lambda name, script, values: written.update(values))
    manifest = f"evaluate.manifest={tmp_path / 'prompts.jsonl'}"
    command = ["table1", "--scale", "small", "--set", manifest, "--runs", str(tmp_path / "runs"),
               "--pipelines", f"ours={EMBEDDED},steps=1,guidance=1"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    assert table1.main() == 1 and "give --vbench-python" in written["rows"]["ours"]["error"]
    (place,) = (tmp_path / "runs" / "small" / "table1" / "vbench-i2v").iterdir()
    videos = sorted((place / "videos").glob("a red circle moving left-[0-4].mp4"))
    assert len(videos) == 5
    made = [video.stat().st_mtime_ns for video in videos]
    names = ("i2v_subject", "subject_consistency", "motion_smoothness", "dynamic_degree", "aesthetic_quality",
             "imaging_quality", "temporal_flickering")  # fmt: skip
    found = {name: [0.1 * i, [{"video_path": "x", "video_results": 0.1 * i}] * 5] for i, name in enumerate(names)}
    (place / "results").mkdir(exist_ok=True)
    (place / "results" / "x_eval_results.json").write_text(json.dumps(found))
    assert table1.main() == 0
    row = written["rows"]["ours"]
    assert row["average"] == {"mean": pytest.approx(0.3), "spread": 0.0, "n": 1}
    assert row["as_paper"]["mean"] == pytest.approx(0.25), "the paper's has no flickering"
    assert "| average | average over Table 1's dimensions |" in (tmp_path / "table1_small.md").read_text()
    assert row["scores"]["imaging_quality"]["mean"] == pytest.approx(0.5) and row["seconds"]["mean"] > 0
    assert [video.stat().st_mtime_ns for video in videos] == made, "clips that are there are not made again"


def test_a_suite_that_does_not_fit_the_scale_is_refused(monkeypatch, capsys):
    for arguments, says in ((["--suite", "vbench"], "hunyuan-i2v-13b, wan-1.3b, wan-14b, wan-i2v-14b, wan-ti2v-5b"),
                            (["--set", "evaluate.sweet=vbench"], "sweet"),
                            (["--scale", "wan-14b", "--suite", "shapes"], "drawn clips")):  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["table1", *arguments])
        assert table1.main() == 2 and says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "says"),
    [({"prompt": "p", "image": "gone.png"}, "gone.png"), ({"prompt": "p"}, "has no image"),
     (None, "evaluate.vbench_data=VBench/vbench2_beta_i2v")],
    ids=["a missing image", "no image", "no prompts"],
)  # fmt: skip
def test_a_suite_without_its_files_makes_a_table_that_says_so_and_runs_nothing(tmp_path, monkeypatch, entry, says):
    monkeypatch.setattr(table1, "RESULTS", tmp_path)
    monkeypatch.setattr(table1, "write", lambda name, script, values: written.update(values))
    monkeypatch.setattr(table1.Runs, "run", lambda *args, **more: pytest.fail("there is nothing to run it for"))
    written, command = {}, ["table1", "--scale", "wan-ti2v-5b", "--runs", str(tmp_path / "runs")]
    if entry:
        (tmp_path / "m.jsonl").write_text(json.dumps(entry) + "\n")
        command += ["--manifest", str(tmp_path / "m.jsonl")]
    monkeypatch.setattr(sys, "argv", command)
    assert table1.main() == 1
    assert written["rows"].keys() == {"teacher", "fastlightgen"}
    text = (tmp_path / "table1_wan-ti2v-5b.md").read_text()
    for row, found in written["rows"].items():
        assert says in found["error"] and f"| {row} | failed: {found['error']} |" in text


def test_a_failed_student_s_row_is_of_the_others_and_says_why(tmp_path, monkeypatch):
    """The run's own words, not those of a folder that it did not leave."""
    prompts = tmp_path / "m.jsonl"
    prompts.write_text(json.dumps({"prompt": "a tree"}) + "\n")
    monkeypatch.setattr(table1, "under_shapes", lambda stock, suite, seed, folder: scored[seed])
    monkeypatch.setattr(table1.Runs, "row", lambda self, cell, seed, whole: told[seed])
    scored = {seed: {"average": 0.1 * seed, "scores": {"sharpness": 0.5}} for seed in (0, 1, 2)}
    # the second one's own evaluation failed, after it had left a whole pipeline
    told = {0: {"error": "flc: error: loss is not finite"}, 1: {"error": "VBench was not run"}, 2: {"average": 0.2}}
    monkeypatch.setattr(table1.Runs, "path", lambda self, cell, seed: tmp_path / str(seed))
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "pipeline").symlink_to(EMBEDDED)
    pairs = table1.contestants(table1.Runs(tmp_path, Scale("tiny"), 1), [0, 1, 2])["fastlightgen"]
    row = table1.measured(pairs, suite())
    assert row["average"]["n"] == 2 and row["average"]["mean"] == pytest.approx(0.15)
    assert row["error"] == "flc: error: loss is not finite" and table1.first_good(pairs) == pairs[1][0]
    paper = {"of": "others", "columns": ["average"], "rows": {}}
    text = table1.markdown({"rows": {"ours": row}, "seeds": [0, 1, 2], "paper": paper})
    assert "ours: of 2 of 3 seeds; flc: error: loss is not finite" in text
    assert table1.measured(pairs[:1], suite()) == {"error": "flc: error: loss is not finite"}
    made = suite(scale="wan-14b", set=["device=cpu", "dtype=float32"], manifest=prompts)
    monkeypatch.setattr(table1, "under_vbench", lambda stock, own, place: scored[2])
    row = table1.measured(pairs, made)
    assert row["average"]["n"] == 1 and row["error"] == "flc: error: loss is not finite", "the next seed's"


def test_a_manifest_drives_drawn_clips_too(tmp_path, image):
    lines = [
        {"prompt": "a red circle moving left"},
        {"prompt": "a blue star moving up", "image": image.name, "seed": 5},
    ]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    asked, made, _ = table1.drawn_shots(suite(set=FEW[1:], manifest=tmp_path / "m.jsonl"), 3, tmp_path)
    assert [s.prompt for s in asked] == list(made.captions) == [line["prompt"] for line in lines for _ in range(2)]
    assert [s.seed for s in asked[2:]] == [5, 6] and [s.image for s in asked] == [None, None, image, image]
    assert made.given.tolist() == [False, False, True, True]


def test_times_are_taken_in_turn_round_after_round(monkeypatch):
    seen = []
    monkeypatch.setattr(timing, "turn", lambda adapter, run, clips: seen.append(run) or float(len(seen)))
    found = timing.interleaved({"a": "run a", "b": "run b"}, rounds=3)
    assert seen == ["run a", "run b"] * 3 and found == {"a": [1.0, 3.0, 5.0], "b": [2.0, 4.0, 6.0]}


def finished(kept, steps, guidance, ffn=None):
    """What times read of a run."""
    shape = {"size": (17, 48, 48), "shift": 3.0, "sampler": "ode", "ffn": ffn}
    return Record.model_construct(kept=kept, steps=steps, guidance=guidance, **shape)


def test_more_steps_and_guidance_take_the_time_of_more_evaluations():
    """8 guided steps are 16 evaluations, 2 without guidance 2: eight times; half of that allows for the rest of a step
    and a busy machine. A run of another family costs its own time only."""
    every = {"blocks": tuple(range(10))}
    runs = {
        "many": finished(every, 8, 2.0),
        "few": finished(every, 2, 1.0),
        "other": finished({"layers": (0,)}, 2, 1.0),
    }
    found = timing.interleaved(runs, rounds=2, clips=2)
    assert min(found["many"]) > 4 * min(found["few"]) and "other" not in found


def test_what_is_timed_has_the_run_s_blocks_and_channels(adapter, monkeypatch):
    """Block calls of the whole timing, warm and timed: 2 x 2 steps of 3 blocks of 5 channels."""
    from diffusers.models.transformers.transformer_wan import WanTransformerBlock

    widths = []
    plain = WanTransformerBlock.forward
    monkeypatch.setattr(
        WanTransformerBlock,
        "forward",
        lambda self, *args, **more: widths.append(self.ffn.net[2].in_features) or plain(self, *args, **more),
    )
    run = finished({"blocks": (0, 4, 9)}, 2, 1.0, {"blocks": 5})
    assert timing.turn(adapter, run, 1) > 0
    assert widths == [5] * (2 * 2 * 3)
