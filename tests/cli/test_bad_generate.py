"""Bad input of `flc generate`: one line on stderr, exit code 2, and no file."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image

from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.usefixtures("place")


GENERATE = {
    "no prompt": (["tiny-wan"], ["Missing option '--prompt'"]),
    "no folder": (["nowhere", "--prompt", "a cat"], ["nowhere does not exist"]),
    "no steps": (["tiny-wan", "--prompt", "a cat", "--steps", "0"], ["--steps 0 must be 1 or more"]),
    "no height": (["tiny-wan", "--prompt", "a cat", "--height", "0"], ["--height 0 must be 1 or more"]),
    "frames": (["tiny-wan", "--prompt", "a cat", "--frames", "16"], ["--frames 16 must be one more than a multiple"]),
    "no image": (["tiny-wan", "--prompt", "a cat", "--image", "i.png"], ["--image i.png cannot be read"]),
    "not a video": (["tiny-wan", "--prompt", "a cat", "--out", "clip.txt"], ["--out clip.txt", ".mp4"]),
    "no place": (["tiny-wan", "--prompt", "a cat", "--out", "no/clip.mp4"], ["folder no does not exist"]),
    "weak guidance": (["tiny-wan", "--prompt", "a cat", "--guidance", "0.5"], ["--guidance 0.5 must be 1"]),
    "guidance nan": (["tiny-wan", "--prompt", "a cat", "--guidance", "nan"], ["--guidance nan must be 1"]),
    "no device": (["tiny-wan", "--prompt", "a cat", "--device", "toaster"], ["--device 'toaster'"]),
    "no such device": (["tiny-wan", "--prompt", "a cat", "--device", "xpu"], ["--device xpu: torch sees none"]),
    "no dtype": (["tiny-wan", "--prompt", "a cat", "--dtype", "float8"], ["--dtype float8 is not one of float32"]),
}


@pytest.mark.parametrize("case", GENERATE)
def test_generate(refused, case):
    arguments, expected = GENERATE[case]
    line = refused("generate", *arguments)
    for part in expected:
        assert part in line, line


def test_generate_gives_no_first_frame_to_a_text_to_video_model(refused, place):
    shutil.copytree(EMBEDDED, place / "model")
    index = place / "model" / "model_index.json"
    index.write_text(index.read_text().replace('"expand_timesteps": true', '"expand_timesteps": false'))
    Image.new("RGB", (48, 48)).save(place / "i.png")
    line = refused("generate", "model", "--prompt", "a cat", "--image", "i.png")
    assert "--image i.png: model is a text-to-video model and takes no first frame" in line


def test_generate_keeps_a_clip_that_is_there(refused, place):
    (place / "clip.mp4").write_bytes(b"a clip")
    assert "--out clip.mp4 is there already" in refused("generate", "tiny-wan", "--prompt", "a cat")
