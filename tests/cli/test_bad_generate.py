"""Bad input of `flc generate`: one line on stderr, exit code 2, and no file."""

from __future__ import annotations

import errno
import shutil

import numpy as np
import pytest
from PIL import Image

from flc.models.folder import EMBEDDED

pytestmark = pytest.mark.usefixtures("place")


GENERATE = {
    "no prompt": (["tiny-wan"], ["Missing option '--prompt'"]),
    "no folder": (["nowhere", "--prompt", "a cat"], ["nowhere does not exist"]),
    "no steps": (["tiny-wan", "--prompt", "a cat", "--steps", "0"], ["--steps 0 must be from 1 to 65536"]),
    "no height": (["tiny-wan", "--prompt", "a cat", "--height", "0"], ["--height 0 must be from 1 to 65536"]),
    "frames": (["tiny-wan", "--prompt", "a cat", "--frames", "16"], ["--frames 16 must be one more than a multiple"]),
    "beyond the table": (["tiny-wan", "--prompt", "a cat", "--height", "1040"], ["--height 1040 is beyond", "64"]),
    "too many frames": (["tiny-wan", "--prompt", "a cat", "--frames", "257"], ["--frames 257 is beyond", "64"]),
    "no image": (["tiny-wan", "--prompt", "a cat", "--image", "i.png"], ["--image i.png does not exist"]),
    "not a video": (
        ["tiny-wan", "--prompt", "a cat", "--out", "clip.txt"],
        ["--out clip.txt", ".mp4, .gif or .webp"],
    ),
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


def test_generate_where_nothing_may_be_written(refused, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write everywhere
    assert "--out clip.mp4: nothing may be written in ." in refused("generate", "tiny-wan", "--prompt", "a cat")


def test_an_image_too_large_to_be_opened(refused, place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Image.new("RGB", (48, 48)).save(place / "i.png")
    assert "--image i.png cannot be read" in refused("generate", "tiny-wan", "--prompt", "a cat", "--image", "i.png")


SMALL = ["tiny-wan", "--prompt", "a cat", "--steps", 1, "--frames", 5, "--height", 16, "--width", 16]


def test_a_png_of_which_a_part_is_broken(refused, place):
    """PIL says so with a SyntaxError."""
    noise = np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)
    Image.fromarray(noise).save(place / "i.png")
    before, first, rest = (place / "i.png").read_bytes().partition(b"IDAT")
    (place / "i.png").write_bytes(before + first + rest.replace(b"IDAT", b"ID\0T", 1))
    with pytest.raises(SyntaxError), Image.open(place / "i.png") as image:
        image.load()
    line = refused("generate", EMBEDDED, "--prompt", "a cat", "--image", "i.png")
    assert "--image i.png cannot be read as an image" in line


def test_ctrl_c_while_a_clip_is_made_is_said(flc, monkeypatch):
    def cut(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("flc.run.generate.adapter_for", cut)
    code, _, err = flc("generate", EMBEDDED, "--prompt", "a cat")
    assert code == 130 and err == "flc: error: interrupted\n"


def test_a_clip_is_there_whole_or_not_at_all(flc, place, monkeypatch):
    def half(path, *arguments):
        path.write_bytes(b"half a cl")
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("flc.run.generate.write_video", half)
    assert flc("generate", *SMALL)[0] == 1 and list(place.iterdir()) == []


@pytest.mark.parametrize(("guidance", "warned"), [(1, True), (2, False)])
def test_a_negative_prompt_without_guidance_is_said_to_have_no_effect(flc, guidance, warned):
    code, _, err = flc("generate", *SMALL, "--guidance", guidance, "--negative-prompt", "a dog")
    assert code == 0 and ("warning: --negative-prompt has no effect without guidance" in err) == warned
