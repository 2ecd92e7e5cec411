"""What commands say of what they made: one line, on stderr."""

from __future__ import annotations

import contextlib
import io
import json
import shutil

import pytest
from PIL import Image

from flc.cli import main
from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.usefixtures("place")

CLIP = ["--prompt", "a red circle moving left", "--steps", 1, "--frames", 5, "--height", 32, "--width", 48]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of which each stage trains nothing, its commands' last lines by name."""
    out, said = tmp_path_factory.mktemp("said") / "run", {}
    scored = ["score", "--pruner", "uniform", "--set", "prepare.clips=4"]
    trained = (["recover", "--recovery", "none"], ["distill", "--distiller", "euler"])
    for name, *more in (scored, ["prune"], *trained, ["export"]):
        heard = io.StringIO()
        with contextlib.redirect_stderr(heard), pytest.raises(SystemExit) as ended:
            main([name, "--out", str(out), *more])
        assert ended.value.code == 0, heard.getvalue()
        said[name] = heard.getvalue().rstrip().rpartition("\n")[2]
    return out, said


def test_score_says_which_blocks_stay(run):
    out, said = run
    plan = json.loads((out / "score" / "plan.json").read_text())
    kept = plan["kept"]["blocks"]
    gone = sorted({*range(10)} - {*kept})
    share = f"({plan['share']:.0%} of their parameters)"
    assert said["score"] == f"{out}/score/plan.json: blocks {kept} stay, {gone} go {share}"


def test_prune_and_export_say_what_they_made_and_where(run):
    out, said = run
    assert said["prune"] == f"{out}/prune/transformer: 1.79 million of 2.49 million parameters"
    assert said["export"] == f"{out}/pipeline: WanPipeline, 1.79 million parameters, 4 steps"


@pytest.mark.parametrize(("name", "kind"), [("x.gif", "GIF"), ("X.WebP", "WEBP")])
def test_generate_writes_an_animation_and_says_where(flc, place, name, kind):
    code, out, err = flc("generate", "tiny-wan", *CLIP, "--out", name)
    assert (code, out) == (0, "")
    assert err.splitlines()[-1] == f"{name}: 5 frames of 48x32 at 8 a second, 1 steps on cpu in float32"
    with Image.open(place / name) as made:
        assert (made.format, made.n_frames, made.size) == (kind, 5, (192, 128)), "small clips are written larger"


def test_generate_takes_a_students_own_dtype_unless_another_is_asked_for(flc, place):
    shutil.copytree(EMBEDDED, place / "model")
    (place / "model" / "flc.json").write_text(json.dumps({"dtype": "bfloat16"}))
    assert flc("generate", "model", *CLIP, "--out", "a.mp4")[2].endswith("on cpu in bfloat16\n")
    assert flc("generate", "model", *CLIP, "--out", "b.mp4", "--dtype", "fp32")[2].endswith("on cpu in float32\n")
