"""Every weight comes from safetensors, inside the folder, and nothing of a folder is run: whatever stock loaders would
follow. A folder that asks for another thing is refused with one line, before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from flc.errors import UserError
from flc.models.folder import EMBEDDED, adapter_for, check
from flc.models.safe import check_pipeline
from tests.cli.hostile import COMPONENTS, FOLDERS, MARKER, NAMES, SOUND, bomb, edit

COMMANDS = {
    "compress": ["compress", "--out", "run", "--model", "model"],
    "generate": ["generate", "model", "--prompt", "a cat"],
    "evaluate": ["evaluate", "--out", "run", "--pipeline", "model"],
}


@pytest.fixture
def model(place, monkeypatch):
    """A copy of the embedded model. What is unpickled is so without reserve, as older loaders did, and the marker
    tells of it."""
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *a, **k: load(*a, **(k | {"weights_only": False, "mmap": False})))
    monkeypatch.syspath_prepend(place)
    shutil.copytree(EMBEDDED, place / "model")
    yield place / "model"
    assert not (place / MARKER).exists(), "something of the folder was run"


def test_the_marker_tells_of_a_pickle_that_was_read(place, monkeypatch):
    bomb(place / "evil.bin", place)
    torch.load(place / "evil.bin", weights_only=False)
    assert (place / MARKER).exists()


@pytest.mark.parametrize("component", NAMES)
@pytest.mark.parametrize("hostile", COMPONENTS, ids=lambda f: f.__name__)
def test_a_component_that_would_be_read_or_run_otherwise_is_refused(model, place, hostile, component):
    said = hostile(model / component, place)
    with pytest.raises(UserError) as caught:
        adapter_for(model)
    assert said in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError):
        check_pipeline(model)


@pytest.mark.parametrize("hostile", FOLDERS, ids=lambda f: f.__name__)
def test_a_folder_that_names_code_or_another_place_is_refused(refused, model, place, hostile):
    said = hostile(model, place)
    assert said in refused(*COMMANDS["compress"])


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_that_reads_a_model_refuses_it(refused, model, place, command):
    for hostile in (COMPONENTS[0], FOLDERS[0]):
        said = hostile(model / "transformer" if hostile in COMPONENTS else model, place)
        assert said in refused(*COMMANDS[command])
        shutil.rmtree(model)
        shutil.copytree(EMBEDDED, model)


@pytest.mark.parametrize("name", ["image_encoder", "text_encoder_2", "prompt_enhancer"])
def test_components_of_other_families_are_held_to_the_same(model, place, name):
    """By any name: whatever has weights in a pickle."""
    (model / name).mkdir()
    (model / name / "config.json").write_text("{}")
    bomb(model / name / "pytorch_model.bin", place)
    edit(model / "model_index.json", **{name: ["transformers", "CLIPVisionModel"]})
    with pytest.raises(UserError, match=f"{name}/pytorch_model.bin is a pickle checkpoint"):
        check(model)


@pytest.mark.parametrize("hostile", COMPONENTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("command", ["distill", "export"])
def test_weights_of_a_stage_are_held_to_the_same(refused, model, place, hostile, command):
    folder = place / "weights" / "transformer"
    shutil.copytree(EMBEDDED / "transformer", folder)
    said = hostile(folder, place)
    (place / "plan.json").write_text(json.dumps({"kept": {"blocks": list(range(10))}}))
    assert said in refused(command, "--out", "run", "--plan", "plan.json", "--weights", "weights")


@pytest.mark.parametrize("sound", SOUND, ids=lambda f: f.__name__)
def test_what_loaders_do_not_look_at_and_the_hubs_cache_are_left_alone(model, place, sound):
    sound(model, place)
    loaded = adapter_for(model).load(model)
    whole = adapter_for(EMBEDDED).load(EMBEDDED).transformer.state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in loaded.transformer.state_dict().items())
    loaded.stock_pipeline(model, False)
    check_pipeline(model)


def test_a_folder_in_the_form_of_a_snapshot_may_not_lead_anywhere_else(model, place):
    snapshot = place / "models--x" / "snapshots" / "1"
    snapshot.parent.mkdir(parents=True)
    shutil.move(model, snapshot)
    secret: Path = place / "secret.safetensors"
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").rename(secret)
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").symlink_to(secret)
    with pytest.raises(UserError, match="is a link out of"):
        check(snapshot)
