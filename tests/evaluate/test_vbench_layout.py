"""Names, prompts and images as VBench expects them, against recorded examples."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flc.errors import UserError
from flc.evaluate.manifest import Asked
from flc.evaluate.vbench_layout import (
    DIMENSIONS,
    check_names,
    crop,
    expected,
    file_name,
    info_of,
    normalised,
    official_prompts,
)

RECORDED = Path(__file__).parent / "vbench"
LIQUID, HORSE = (
    "a close up of a blue and orange liquid",
    "One person is riding on the back of a horse led by another person",
)


@pytest.fixture
def checkout(tmp_path):
    """VBench's list of image-to-video prompts with its images of one ratio."""
    shutil.copy(RECORDED / "vbench2_i2v_full_info.json", tmp_path)
    folder = tmp_path / "data" / "crop" / "7-4"
    folder.mkdir(parents=True)
    for prompt in (LIQUID, HORSE):
        Image.fromarray(np.zeros((9, 16, 3), np.uint8)).save(folder / f"{prompt}.jpg")
    return tmp_path


@pytest.mark.parametrize(("prompt", "number", "name"), json.loads((RECORDED / "names.json").read_text()))
def test_names_are_the_recorded_ones(prompt, number, name):
    assert file_name(prompt, number) == name


def test_image_to_video_prompts_with_images_and_dimensions(checkout):
    liquid, horse = official_prompts(checkout, "vbench-i2v", 480, 832)
    assert liquid.prompt == LIQUID and liquid.image == checkout / "data" / "crop" / "7-4" / f"{LIQUID}.jpg"
    assert liquid.dimensions == ("aesthetic_quality", "imaging_quality", "temporal_flickering"), "a background"
    assert set(horse.dimensions) == set(DIMENSIONS["vbench-i2v"]), "a subject"
    videos = expected([liquid, horse], "vbench-i2v")
    assert videos["i2v_subject"] == 5 and videos["imaging_quality"] == 10


def test_text_to_video_prompts_once_each(tmp_path):
    shutil.copy(RECORDED / "VBench_full_info.json", tmp_path)
    asked = official_prompts(tmp_path, "vbench", 480, 832)
    assert [a.image for a in asked] == [None] * 4
    by_prompt = {a.prompt: a.dimensions for a in asked}
    assert "alley" not in by_prompt, "it counts for scene and background only"
    hokusai = "A beautiful coastal beach in spring, waves lapping on sand by Hokusai, in the style of Ukiyo"
    assert by_prompt[hokusai] == ("aesthetic_quality", "imaging_quality"), "listed twice, once for another dimension"
    assert expected(asked, "vbench") == {
        "subject_consistency": 5, "motion_smoothness": 5, "dynamic_degree": 5,
        "aesthetic_quality": 10, "imaging_quality": 10, "temporal_flickering": 5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("height", "width", "ratio"),
    [(480, 832, "7-4"), (512, 512, "1-1"), (320, 512, "8-5"), (576, 1024, "16-9"), (704, 1280, "16-9"),
     (1024, 1792, "7-4"), (832, 480, "1-1")],
)  # fmt: skip
def test_the_nearest_of_vbenchs_ratios(height, width, ratio):
    assert crop(height, width) == ratio


def test_missing_images_and_lists_are_named(checkout, tmp_path_factory):
    with pytest.raises(UserError, match=r"data/crop/1-1/.*\.jpg does not exist \(2 of 2 images.*download_data"):
        official_prompts(checkout, "vbench-i2v", 512, 512)
    with pytest.raises(UserError, match=r"VBench_full_info\.json cannot be read \(No such file"):
        official_prompts(checkout, "vbench", 512, 512)
    other = tmp_path_factory.mktemp("other")
    for text, says in (
        ("{", "is not JSON"),
        ('[{"prompt_en": "a"}]', "is not a list of dimension, image_name, prompt"),
        ('[{"prompt_en": "a", "dimension": null, "image_name": "a.jpg"}]', "is not a list of dimension"),
    ):
        (other / "vbench2_i2v_full_info.json").write_text(text)
        with pytest.raises(UserError, match=says):
            official_prompts(other, "vbench-i2v", 512, 512)


def test_a_manifest_counts_for_every_dimension_with_absolute_images(tmp_path):
    """VBench joins the name to a folder of its own: an absolute path overrides that."""
    [entry] = info_of([Asked("a cat", tmp_path / "cat.png")], "vbench-i2v")
    assert entry == {
        "prompt_en": "a cat",
        "dimension": list(DIMENSIONS["vbench-i2v"]),
        "image_name": f"{tmp_path}/cat.png",
    }
    [entry] = info_of([Asked("a cat")], "vbench")
    assert entry == {"prompt_en": "a cat", "dimension": list(DIMENSIONS["vbench"])}


@pytest.mark.parametrize(
    ("prompts", "says"),
    [(["a cat", "a dog", "a cat"], "line 3 repeats the prompt of line 1"), (["either/or"], "may not hold a slash"),
     (["two\nlines"], "may not hold"), (["ä" * 125], "too long")],
)  # fmt: skip
def test_prompts_that_cannot_be_names_of_files(prompts, says):
    asked = [Asked(p, where=f"line {n}") for n, p in enumerate(prompts, 1)]
    with pytest.raises(UserError, match=says):
        check_names(asked)


def test_the_longest_prompt_of_a_files_name_passes():
    check_names([Asked("a" * (255 - len("-0.mp4")))])


def test_the_leaderboards_ranges():
    """Ends of VBench's scripts/constant.py."""
    assert normalised("motion_smoothness", 0.9975) == 1 and normalised("motion_smoothness", 0.706) == 0
    assert normalised("i2v_subject", 0.1462) == 0 and normalised("subject_consistency", 1.0) == 1
    assert normalised("aesthetic_quality", 0.65) == 0.65
