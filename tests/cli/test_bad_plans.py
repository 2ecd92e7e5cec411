"""Bad plans, and weights that do not go with them: one line on stderr, exit code 2, and nothing written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from flc.models.folder import EMBEDDED
from flc.models.view import removed

pytestmark = pytest.mark.usefixtures("place")

ALL = list(range(10))
PLANS = {
    "out of range": ({"blocks": [0, 99]}, ["kept.blocks=[0, 99]", "0 to 9"]),
    "negative": ({"blocks": [-1, 2]}, ["kept.blocks=[-1, 2]", "0 to 9"]),
    "twice": ({"blocks": [1, 1]}, ["rising"]),
    "none": ({"blocks": []}, ["kept.blocks=[]"]),
    "no numbers": ({"blocks": ["a"]}, ["kept.blocks=['a']"]),
    "no list": ({"blocks": 3}, ["kept.blocks=3"]),
    "not a mapping": (ALL, ["kept must name", "(blocks)"]),
    "another stack": ({"layers": ALL}, ["kept must name", "(blocks)"]),
}


@pytest.mark.parametrize("case", PLANS)
def test_plans_that_do_not_fit_the_model(refused, place, case):
    kept, expected = PLANS[case]
    (place / "plan.json").write_text(json.dumps({"kept": kept}))
    line = refused("prune", "--out", "run", "--plan", "plan.json")
    for part in ["plan.json", *expected]:
        assert part in line, line


TEN = [[0, 1]] * 10
CHANNELS = {
    "of no stack": ([], "channels must name"),
    "of another stack": ({"layers": TEN}, "channels must name"),
    "of fewer blocks": ({"blocks": TEN[:9]}, "channels.blocks must be 10 lists of rising numbers below 384"),
    "of several lengths": ({"blocks": [[0], *TEN[1:]]}, "all of one length"),
    "none": ({"blocks": [[]] * 10}, "channels.blocks must be"),
    "falling": ({"blocks": [[1, 0], *TEN[1:]]}, "channels.blocks must be"),
    "beyond the last": ({"blocks": [[0, 384], *TEN[1:]]}, "channels.blocks must be"),
    "words": ({"blocks": [["a", "b"], *TEN[1:]]}, "channels.blocks must be"),
}


@pytest.mark.parametrize("case", CHANNELS)
def test_channels_that_do_not_fit_the_model(refused, place, case):
    channels, expected = CHANNELS[case]
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}, "channels": channels}))
    line = refused("prune", "--out", "run", "--plan", "plan.json")
    assert "plan.json" in line and expected in line, line


@pytest.mark.parametrize("command", ["distill", "export"])
def test_weights_of_another_width_than_the_plans(refused, place, command):
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}, "channels": {"blocks": TEN}}))
    line = refused(command, "--out", "run", "--plan", "plan.json", "--weights", EMBEDDED)
    assert "ffn_dim=384, under this plan a" in line and "network has 2:" in line, line


@pytest.mark.parametrize(
    ("command", "kept", "says"),
    [
        # what `flc prune` or `flc distill` left would be taken for the whole network: Eq 9 without its unpruned side
        ("distill", ALL[:7], "num_layers=7, under this plan a whole network has 10"),
        ("export", ALL, "num_layers=10, under this plan a pruned network has 7"),
    ],
)
def test_weights_of_another_depth_than_the_stage_needs(refused, place, adapter, command, kept, says):
    removed(adapter.transformer, {"blocks": tuple(kept)}, adapter.stacks).save_pretrained(place / "weights")
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL[:7]}}))
    line = refused(command, "--out", "run", "--plan", "plan.json", "--weights", "weights")
    assert says in line, line


def test_weights_of_another_model(refused, place):
    shutil.copytree(EMBEDDED / "transformer", place / "weights")
    config = json.loads((place / "weights" / "config.json").read_text())
    (place / "weights" / "config.json").write_text(json.dumps(config | {"eps": 0.1}))  # the same tensors
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}}))
    line = refused("distill", "--out", "run", "--plan", "plan.json", "--weights", "weights")
    assert "weights has eps=0.1, under this plan a whole network has 1e-06" in line, line


def test_a_schedule_that_is_not_the_students_is_refused_before_anything_is_written(refused, place):
    shutil.copytree(EMBEDDED / "transformer", place / "student" / "transformer")
    says = {"steps": 2, "guidance": 1.0, "shift": 3.0, "sampler": "sde", "distiller": "dmd", "teacher": "cfg"}
    says |= {"recovery": "bernoulli", "sigmas": [1.0, 0.5, 0.0]}
    (place / "student" / "student.json").write_text(json.dumps(says))
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}}))
    line = refused("export", "--out", "run", "--plan", "plan.json", "--weights", "student")
    assert "the student was trained on sigmas [1.0, 0.5, 0.0], the scheduler gives [1.0, 0.75" in line, line


@pytest.mark.parametrize("command", ["recover", "distill", "export"])
def test_every_stage_reads_its_plan_before_it_writes(refused, place, command):
    (place / "plan.json").write_text('{"kept": []}')
    weights = [] if command == "recover" else ["--weights", EMBEDDED]
    assert "kept must name" in refused(command, "--out", "run", "--plan", "plan.json", *weights)


def a_file(place: Path) -> None:
    (place / "weights").write_bytes(b"x")


def an_empty_folder(place: Path) -> None:
    (place / "weights").mkdir()


def fewer_blocks(place: Path) -> None:
    shutil.copytree(EMBEDDED / "transformer", place / "weights")
    config = json.loads((place / "weights" / "config.json").read_text())
    (place / "weights" / "config.json").write_text(json.dumps(config | {"num_layers": 3}))


def another_network(place: Path) -> None:
    shutil.copytree(EMBEDDED / "vae", place / "weights")


BAD_WEIGHTS = {
    a_file: "weights is no folder",
    an_empty_folder: "weights holds no *.safetensors",
    fewer_blocks: "holds blocks.3.",
    another_network: "weights holds a AutoencoderKLWan",
}


@pytest.mark.parametrize("damage", BAD_WEIGHTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", ["distill", "export"])
def test_weights_that_hold_no_transformer_of_the_model(refused, place, command, damage):
    damage(place)
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}}))
    line = refused(command, "--out", "run", "--plan", "plan.json", "--weights", "weights")
    assert BAD_WEIGHTS[damage] in line, line


def test_exported_weights_need_the_schedule_they_were_trained_on(refused, place):
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": ALL}}))
    line = refused("export", "--out", "run", "--plan", "plan.json", "--weights", EMBEDDED)
    assert "student.json" in line
