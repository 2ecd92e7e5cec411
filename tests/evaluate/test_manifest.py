"""A manifest of prompts: what is read, what every line's fault is called, and which clips come of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flc.data.image import read_image
from flc.errors import UserError
from flc.evaluate.manifest import Asked, check_captions, check_given, digest, read_manifest, shots


@pytest.fixture
def written(tmp_path):
    """Write a manifest beside two images; its path."""
    Image.fromarray(np.full((20, 40, 3), 200, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "a.png").read_bytes()[:30])
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "half.jpg")
    (tmp_path / "half.jpg").write_bytes((tmp_path / "half.jpg").read_bytes()[:1500])

    def write(*lines: object):
        text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
        (tmp_path / "prompts.jsonl").write_text(text)
        return tmp_path / "prompts.jsonl"

    return write


def test_lines_with_and_without_images_and_seeds(written):
    path = written({"prompt": "a cat", "image": "a.png", "seed": 7}, "", {"prompt": "a dog"})
    cat, dog = read_manifest(path)
    assert (cat.prompt, cat.image, cat.seed) == ("a cat", path.parent / "a.png", 7)
    assert (dog.prompt, dog.image, dog.seed) == ("a dog", None, None)
    assert dog.where.endswith("line 3"), "empty lines count"


FAULTS = {
    "not json": ('{"prompt": "a cat"', "line 2 is not JSON"),
    "not an object": (["a cat"], "line 2 has no prompt"),
    "no prompt": ({"image": "a.png"}, "line 2 has no prompt"),
    "empty prompt": ({"prompt": " "}, "line 2 has no prompt"),
    "prompt of another type": ({"prompt": 3}, "line 2 has no prompt"),
    "unknown key": ({"prompt": "a cat", "imgae": "a.png"}, "line 2 has an unknown key 'imgae'"),
    "missing image": ({"prompt": "a cat", "image": "b.png"}, "b.png does not exist"),
    "broken image": ({"prompt": "a cat", "image": "broken.png"}, "broken.png cannot be read as an image"),
    "image that was cut off": ({"prompt": "a cat", "image": "half.jpg"}, "half.jpg cannot be read as an image"),
    "image whose name no file can have": ({"prompt": "a cat", "image": "a" * 300}, "cannot be read as an image"),
    "half of a surrogate pair": ('{"prompt": "a \\ud800 cat"}', "line 2: prompt is not text"),
    "image of another type": ({"prompt": "a cat", "image": 3}, "line 2: image 3 is not a path"),
    "seed of a half": ({"prompt": "a cat", "seed": 0.5}, "line 2: seed 0.5"),
    "seed below zero": ({"prompt": "a cat", "seed": -1}, "line 2: seed -1"),
}


@pytest.mark.parametrize("case", FAULTS)
def test_each_fault_names_its_line(written, case):
    line, says = FAULTS[case]
    with pytest.raises(UserError) as caught:
        read_manifest(written({"prompt": "a dog"}, line))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_a_mark_of_byte_order_is_no_part_of_the_first_line(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a cat"}', encoding="utf-8-sig")
    assert [a.prompt for a in read_manifest(tmp_path / "prompts.jsonl")] == ["a cat"]


def test_files_that_are_no_manifest(written, tmp_path):
    for path, says in ((tmp_path / "none.jsonl", "cannot be read: No such file"), (written(""), "is empty"),
                       (tmp_path / "a.png", "is not a text file")):  # fmt: skip
        with pytest.raises(UserError, match=says):
            read_manifest(path)


def test_every_clip_has_another_seed_and_a_given_seed_counts_on():
    asked = [Asked("a"), Asked("b", seed=40), Asked("c")]
    made = shots(asked, 5, seed=3)
    assert [(s.prompt, s.number) for s in made[4:6]] == [("a", 4), ("b", 0)] and len({s.seed for s in made}) == 15
    assert [s.seed for s in made[5:10]] == [40, 41, 42, 43, 44]
    assert made[10].seed - made[0].seed == 10, "a given seed moves no other prompt's"


def test_the_fingerprint_sees_prompts_seeds_and_pixels(written):
    line = {"prompt": "a cat", "image": "a.png"}
    before = digest(read_manifest(written(line)))
    assert digest(read_manifest(written(line))) == before
    assert digest(read_manifest(written(line | {"seed": 1}))) != before
    Image.fromarray(np.full((20, 40, 3), 201, np.uint8)).save(written(line).parent / "a.png")
    assert digest(read_manifest(written(line))) != before


def test_an_image_covers_the_frame_and_keeps_its_shape(tmp_path):
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, 20:] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    half = read_image(tmp_path / "a.png", 16, 16)
    assert half.shape == (16, 16, 3) and half.dtype == np.float32
    assert half[:, :6].max() < 0.1 and half[:, 10:].min() > 0.9, "the edge is in the middle, and sharp"


def test_images_go_where_suite_and_model_take_them(tmp_path):
    with_image, without = [Asked("a", tmp_path / "a.png", where="line 1")], [Asked("a", where="line 1")]
    check_given(with_image, "vbench-i2v", True)
    check_given(with_image, "shapes", True)
    check_given(without, "vbench", False)
    for asked, suite, takes, says in (
        (without, "vbench-i2v", True, "line 1 has no image"),
        (with_image, "vbench", True, "use --suite vbench-i2v"),
        (with_image, "shapes", False, "takes no first frame"),
        ([], "vbench-i2v", False, "use --suite vbench"),
    ):
        with pytest.raises(UserError, match=says):
            check_given(asked, suite, takes)


def test_the_shapes_suite_takes_only_captions_it_can_judge():
    check_captions([Asked("a red circle moving left")])
    with pytest.raises(UserError, match="line 9: caption 'a cat' does not name one shape"):
        check_captions([Asked("a cat", where="line 9")])
