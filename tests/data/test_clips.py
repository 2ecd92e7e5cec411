"""Drawn clips are what their captions say; a user's folder is read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from flc.data.latents import LatentClips, encode, encode_parts, finish_parts
from flc.data.listing import read_listing
from flc.data.shapes import (
    BACKGROUND,
    CELLS,
    COLOURS,
    MOTIONS,
    SHAPES,
    TEXTURE,
    all_captions,
    draw,
    parse_caption,
    sample_spec,
    texture,
)
from flc.data.source import drawn_clips, users_clips, write_animation, write_video
from flc.data.texts import Texts, check_texts, encode_texts
from flc.data.video import check_video, read_video
from flc.draws import StepDraws
from flc.errors import UserError
from flc.models.condition import join
from flc.recipe import Recipe, RecoverStage, ScoreStage
from flc.run.console import Console
from flc.run.scoring import noised_clips
from flc.train.launch import Ranks


def mask(video):
    return np.abs(video - video[:, :1, :1]).max(-1) > 0.1


def test_every_caption_once_and_parsed_back():
    captions = all_captions()
    assert len(set(captions)) == len(SHAPES) * len(COLOURS) * len(MOTIONS) == 144
    assert {parse_caption(c) for c in captions} == {(s, c, m) for s in SHAPES for c in COLOURS for m in MOTIONS}
    with pytest.raises(ValueError, match="does not name one shape"):
        parse_caption("a red circle")


def test_clips_show_their_motion_and_stay_inside_the_frame():
    rng = np.random.default_rng(0)
    for caption in all_captions():
        spec = replace(sample_spec(rng, caption), texture=None)
        video = draw(spec)
        assert video.shape == (17, 48, 48, 3) and video.min() >= BACKGROUND[0] - 1e-6
        cover = np.abs(video - video[:, :1, :1]).sum(-1)  # proportional to how much of a pixel the shape covers
        # The frame cuts nothing, so all that varies is how an edge's blur falls on the pixels. That evens out along
        # an edge, to .6 % and .04 pixel at worst; not along a diamond's, whose pixels all lie .71 apart across it.
        even, pixels = (0.97, 0.15) if spec.shape == "diamond" else (0.99, 0.05)
        assert cover.sum((1, 2)).min() > even * cover.sum((1, 2)).max()
        ys, xs = np.mgrid[0:48, 0:48]
        first, last = (np.array([(xs * c).sum(), (ys * c).sum()]) / c.sum() for c in cover[[0, -1]])
        assert (last - first) / 48 == pytest.approx(np.array(MOTIONS[spec.motion]) * spec.travel, abs=pixels / 48)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (48, 80), (96, 64), (50, 50)])
def test_a_texture_lies_still_under_the_shape_and_is_its_seeds(height, width):
    spec = sample_spec(np.random.default_rng(0), "a red circle moving up")
    clip, plain = draw(spec, 5, height, width), draw(replace(spec, texture=None), 5, height, width)
    ground = texture(spec.texture, height, width)
    assert abs(ground).max() <= TEXTURE and ground.std() > TEXTURE / 4, "of uniform corners, .38 of it"
    assert abs(np.diff(ground, axis=0)).max() <= 2 * TEXTURE * CELLS / min(height, width) + 1e-9, "linear in a cell"
    apart = clip - plain
    outside = plain == plain[:1, :1, :1]
    assert np.allclose(apart[outside], np.broadcast_to(ground[None, ..., None], apart.shape)[outside], atol=1e-6)
    centre = (
        int(height / 2 + (spec.start[1] - 0.5) * min(height, width)),
        int(width / 2 + (spec.start[0] - 0.5) * min(height, width)),
    )
    assert apart[0][centre].max() == 0, "not on the shape"
    assert np.array_equal(draw(spec, 5, height, width), clip)
    assert not np.array_equal(texture(spec.texture + 1, height, width), ground)


def test_the_faintest_object_stands_out_from_any_texture():
    faintest = min(np.linalg.norm(np.array(c) - BACKGROUND[1]) for c in COLOURS.values())
    assert np.sqrt(3) * TEXTURE < 0.25 * faintest, "below the mask's ramp (flc/evaluate/clips.py)"


def test_shapes_have_about_the_same_area_so_that_area_does_not_tell_them_apart():
    areas = {}
    for shape in SHAPES:
        rng = np.random.default_rng(1)
        areas[shape] = np.mean([mask(draw(sample_spec(rng, f"a red {shape} moving left"))).mean() for _ in range(20)])
    assert max(areas.values()) < 1.25 * min(areas.values()), areas


def test_drawn_clips_go_round_the_captions_and_depend_on_the_seed_only():
    first, again, other = (list(drawn_clips(144, 5, 48, 48, seed)) for seed in (3, 3, 4))
    assert {caption for _, caption in first} == set(all_captions())
    assert all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for (a, _), (b, _) in zip(first, other, strict=True))


def test_a_video_is_read_back(tmp_path):
    video = draw(sample_spec(np.random.default_rng(0), "a green square moving down"))
    write_video(tmp_path / "a.mp4", video, scale=4)
    back = read_video(tmp_path / "a.mp4", 17, 48, 48)
    assert np.abs(back - video).mean() < 0.02  # H.264 at crf 16, chroma at half resolution
    with pytest.raises(UserError, match="has 17 frames, 33 are needed"):
        read_video(tmp_path / "a.mp4", 33, 48, 48)


def test_a_video_is_taken_at_the_models_frame_rate_be_it_faster_or_slower(tmp_path):
    """Frames are told apart by their brightness."""
    video = np.stack([np.full((48, 48, 3), 0.1 + 0.02 * k, np.float32) for k in range(36)])
    write_video(tmp_path / "30.mp4", video, fps=30)

    def taken(frames: int, fps: int | None) -> list[int]:
        found = read_video(tmp_path / "30.mp4", frames, 48, 48, fps)
        return [round(float((f.mean() - 0.1) / 0.02)) for f in found]

    assert taken(4, 15) == [0, 2, 4, 6] and taken(5, 24) == [0, 1, 2, 3, 5]
    assert taken(4, 30) == taken(4, None) == [0, 1, 2, 3]
    assert taken(6, 60) == [0, 0, 1, 1, 2, 2] and taken(5, 40) == [0, 0, 1, 2, 3]
    assert check_video(tmp_path / "30.mp4", 18, 48, 48, 15) == 18
    for look in (lambda: check_video(tmp_path / "30.mp4", 19, 48, 48, 15), lambda: taken(19, 15)):
        with pytest.raises(UserError, match="has 18 frames at the model's 15 a second, 19 are needed"):
            look()
    assert check_video(tmp_path / "30.mp4", 72, 48, 48, 60) == 36


def test_a_users_folder(tmp_path):
    rows = []
    for index, (video, caption) in enumerate(drawn_clips(3, 9, 48, 96, seed=0)):
        write_video(tmp_path / f"{index}.mp4", video)
        rows.append(json.dumps({"file": f"{index}.mp4", "caption": caption}))
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    clips = list(users_clips(tmp_path, range(5), 9, 48, 48))
    assert [c for _, c in clips][3:] == [c for _, c in clips][:2], "fewer clips than asked for go round again"
    assert clips[0][0].shape == (9, 48, 48, 3), "wide clips are cropped at the centre"
    later = list(users_clips(tmp_path, [2, 3], 9, 48, 48))
    assert [c for _, c in later] == [clips[2][1], clips[0][1]], "those after the first two, then round again"


def test_drawn_and_read_clips_of_some_numbers_are_those_of_all(tmp_path):
    whole = list(drawn_clips(150, 5, 48, 48, seed=3))
    some = list(drawn_clips(150, 5, 48, 48, seed=3, rows=[2, 144, 149]))
    assert [caption for _, caption in some] == [whole[i][1] for i in (2, 144, 149)]
    assert all(np.array_equal(video, whole[i][0]) for (video, _), i in zip(some, (2, 144, 149), strict=True))


def same(one: Path, other: Path) -> None:
    """All files of two folders of encoded clips, by their bytes; but their captions, which are encoded later."""
    names, others = ({p.name for p in folder.iterdir() if not p.name.startswith("texts")} for folder in (one, other))
    assert names == others and len(names) > 2
    assert all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def test_encoding_goes_on_after_what_was_written_before_a_clip_that_cannot_be_read(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("flc.data.latents.PART", 4)
    pairs, bars, encoded = list(drawn_clips(11, 5, 48, 48, seed=0)), [], []
    (tmp_path / "whole").mkdir()
    encode(adapter, pairs, tmp_path / "whole", batch=3)

    def broken(rows):
        yield from (pairs[row] for row in rows if row < 9)
        raise UserError("the tenth cannot be read")

    plain = adapter.encode
    monkeypatch.setattr(adapter, "encode", lambda video: encoded.append(len(video)) or plain(video))
    (tmp_path / "cut").mkdir()
    with pytest.raises(UserError, match="the tenth"):
        encode_parts(adapter, broken, len(pairs), tmp_path / "cut", batch=3)
    assert encoded == [3, 1, 3, 1]
    with pytest.raises(UserError, match=r"000008-000011\.safetensors of another rank is not there"):
        finish_parts(tmp_path / "cut", len(pairs))
    encode_parts(
        adapter, lambda rows: (pairs[r] for r in rows), 11, tmp_path / "cut", on_clip=lambda: bars.append(1), batch=3
    )
    assert encoded[4:] == [3] and len(bars) == 11, "the last three alone"
    finish_parts(tmp_path / "cut", len(pairs))
    same(tmp_path / "whole", tmp_path / "cut")
    parts = [f"{a:06d}-{b:06d}.safetensors" for a, b in ((0, 4), (4, 8), (8, 11))]
    assert {p.name for p in (tmp_path / "cut").iterdir()} == {*parts, "captions.json"}
    assert json.loads((tmp_path / "cut" / "captions.json").read_text()) == [caption for _, caption in pairs]


def test_a_part_that_is_lost_is_said_and_one_of_another_length_is_not_looked_at(adapter, tmp_path, monkeypatch):
    """What a clip is stands beside its caption, or nothing does."""
    monkeypatch.setattr("flc.data.latents.PART", 4)
    pairs = list(drawn_clips(6, 5, 48, 48, seed=0))
    encode(adapter, pairs, tmp_path)
    (tmp_path / "000000-000008.safetensors").write_bytes((tmp_path / "000000-000004.safetensors").read_bytes())
    data = LatentClips(tmp_path, adapter)
    assert len(data) == 6
    assert torch.allclose(data.batch(torch.tensor([5]), None).x0, adapter.encode(pairs[5][0][None]), atol=1e-4)
    (tmp_path / "000000-000004.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"000000-000004\.safetensors is missing or damaged: remove .* to make it again"
    ):
        LatentClips(tmp_path, adapter)


def test_ranks_encode_parts_in_turn_whatever_was_there_and_by_how_many(adapter, tmp_path, monkeypatch):
    """Three ranks go on where one of two left off; together they have every clip once, in its place."""
    monkeypatch.setattr("flc.data.latents.PART", 4)
    pairs, asked = list(drawn_clips(18, 5, 48, 48, seed=0)), []

    def source(rows):
        asked.append(list(rows))
        return (pairs[row] for row in rows)

    (tmp_path / "one").mkdir()
    encode(adapter, pairs, tmp_path / "one", batch=4)
    (tmp_path / "many").mkdir()
    encode_parts(adapter, source, 18, tmp_path / "many", rank=1, world=2, batch=4)
    for rank in (2, 0, 1):
        encode_parts(adapter, source, 18, tmp_path / "many", rank, world=3, batch=4)
    assert asked == [[*range(4, 8), *range(12, 16)], [*range(8, 12)], [*range(4)], [16, 17]]
    finish_parts(tmp_path / "many", 18)
    same(tmp_path / "one", tmp_path / "many")


def test_latents_match_their_captions_and_batches_repeat(adapter, tmp_path):
    pairs = list(drawn_clips(10, 9, 48, 48, seed=0))
    encode(adapter, pairs, tmp_path, batch=4)
    data = LatentClips(tmp_path, adapter)
    batch = data.batch(torch.tensor([7, 2]), torch.tensor([True, False]))
    for row, index in enumerate((7, 2)):
        alone = adapter.encode(pairs[index][0][None])
        assert torch.allclose(batch.x0[row], alone[0], atol=1e-4)  # convolutions of another batch size
        text = adapter.text([pairs[index][1]])[0]
        assert torch.equal(batch.cond.text[row, : len(text)], text)
    assert torch.equal(batch.cond.first, batch.x0[:, :, :1])
    one, two = (data.random_batch(StepDraws(0, "s", 4), 4, 0.5) for _ in range(2))
    assert torch.equal(one.x0, two.x0) and torch.equal(one.cond.given, two.cond.given)
    assert torch.equal(one.cond.text, two.cond.text)
    dropping = data.random_batch(StepDraws(0, "s", 4), 512, 0.5, drop_text=0.25)
    whole = data.random_batch(StepDraws(0, "s", 4), 512, 0.5)
    assert torch.equal(dropping.x0, whole.x0) and torch.equal(dropping.cond.given, whole.cond.given)
    null = join([whole.cond, whole.cond.without_text()]).text[512:]
    dropped = torch.tensor([torch.equal(own, empty) for own, empty in zip(dropping.cond.text, null, strict=True)])
    assert 88 < int(dropped.sum()) < 168, "within four standard deviations of a quarter of 512"
    assert torch.equal(dropping.cond.text[~dropped], whole.cond.text[~dropped])
    samples = [list(data.samples(10, 4, 0, 3.0)) for _ in range(2)]
    assert [len(s.t) for s in samples[0]] == [4, 4, 2]
    assert all(torch.equal(a.x1, b.x1) and torch.equal(a.t, b.t) for a, b in zip(*samples, strict=True))


def test_a_pruners_clips_have_the_first_frames_and_times_that_are_asked_for(adapter, tmp_path):
    """By default those of stage II: 10 clips take stratified draws, so that a share of .3 is 3 of them exactly."""
    encode(adapter, [(video, caption) for video, caption in drawn_clips(2, 9, 48, 48, seed=0)], tmp_path)
    job = SimpleNamespace(adapter=adapter, ranks=Ranks(), console=Console())

    def met(**sections):
        job.recipe = Recipe(score=ScoreStage(batch=4, **sections.pop("score", {})), **sections)
        with noised_clips(job, tmp_path) as batches:
            samples = list(batches(10))
        return int(sum(s.cond.given.sum() for s in samples)), torch.cat([s.t for s in samples])

    half, times = met()
    assert half == 5 and times.min() >= 0.02 and times.max() <= 0.98
    given, same = met(recover=RecoverStage(given_share=0.3))
    assert given == 3 and torch.equal(same, times)
    given, other = met(recover=RecoverStage(given_share=0.3), score={"given_share": 1, "time_min": 0.7, "time_max": 1})
    assert given == 10 and torch.equal(other.clamp(max=0.98), times.clamp(min=0.7)) and other.max() > 0.98
    with pytest.raises(ValueError, match="no less than time_min"):
        ScoreStage(time_min=0.9, time_max=0.5)


def test_the_autoencoder_is_given_few_clips_at_once_where_they_are_large(adapter, monkeypatch):
    videos, seen = np.stack([video for video, _ in drawn_clips(5, 9, 48, 48, seed=0)]), []
    latents = adapter.encode(videos)
    for name in ("encode", "decode"):
        plain = getattr(adapter.pipe.vae, name)
        monkeypatch.setattr(adapter.pipe.vae, name, lambda x, plain=plain, **m: seen.append(len(x)) or plain(x, **m))
    whole = adapter.decode(latents)
    assert seen == [5]
    monkeypatch.setattr("flc.models.stock.PIXELS", 12 * 48 * 48 * 2 + 1)  # latents of 9 frames decode to at most 12
    # convolutions of another batch size
    assert np.abs(adapter.decode(latents) - whole).max() < 1e-4 and seen[1:] == [2, 2, 1]
    assert torch.allclose(adapter.encode(videos), latents, atol=1e-4) and seen[4:] == [2, 2, 1]
    monkeypatch.setattr("flc.models.stock.PIXELS", 1)
    assert torch.allclose(adapter.encode(videos), latents, atol=1e-4) and seen[7:] == [1] * 5


def test_a_batch_has_texts_as_long_as_the_longest_of_all_clips_wherever_its_own_end(adapter, tmp_path):
    """So that what a clip's velocity is does not depend on its neighbours."""
    (video, _), *_ = drawn_clips(1, 9, 48, 48, seed=0)
    captions = ["a red circle moving left", "a", "a blue square moving up and then a little more"]
    encode(adapter, [(video, caption) for caption in captions], tmp_path)
    data = LatentClips(tmp_path, adapter)
    longest = adapter.text(captions).shape[1]
    one = data.batch(torch.tensor([1]), None).cond.text
    assert one.shape[1] == longest > adapter.text(["a"]).shape[1]
    assert torch.equal(one[0], adapter.text(captions)[1])


@pytest.fixture
def encoders_work(adapter, monkeypatch):
    """The prompts that the text encoder was given, one list a batch."""
    batches, encode_texts = [], adapter.encode_texts
    monkeypatch.setattr(adapter, "_texts", {})
    monkeypatch.setattr(adapter, "encode_texts", lambda prompts: batches.append(prompts) or encode_texts(prompts))
    return batches


def test_captions_are_encoded_once_each_by_one_rank_and_read_by_every_stage(
    adapter, tmp_path, monkeypatch, encoders_work
):
    monkeypatch.setattr("flc.data.texts.TOGETHER", 2)
    captions = ["a", "a red circle moving left", "a", "a blue square moving up", "b", "c"]
    for rank in (1, 0):
        adapter._texts = {}  # another process
        encode_texts(adapter, captions, tmp_path, rank, world=2)
    asked = [prompt for batch in encoders_work for prompt in batch]
    assert sorted(p for p in asked if p) == sorted(set(captions)) and encoders_work[0] == [
        "a blue square moving up",
        "b",
    ]
    encoders_work.clear()
    adapter._texts = {}
    found = Texts(tmp_path, captions, adapter, "a green star").condition(captions)
    assert [p for batch in encoders_work for p in batch] == ["", "a green star"], "the null condition's alone"
    expected = adapter.condition(captions, "a green star")
    assert torch.equal(found.text, expected.text) and torch.equal(found.null, expected.null)
    adapter._texts = {}
    encoders_work.clear()
    encode_texts(adapter, captions, tmp_path)
    assert encoders_work == [], "a stopped run keeps what it has"


def test_texts_of_another_rank_that_are_not_there_are_said(adapter, tmp_path, monkeypatch):
    monkeypatch.setattr("flc.data.texts.TOGETHER", 1)
    encode_texts(adapter, ["a", "b"], tmp_path, rank=0, world=2)
    with pytest.raises(UserError, match=r"texts-000001.safetensors of another rank is not there: give an --out"):
        check_texts(tmp_path, ["a", "b"])


def test_an_adapter_keeps_the_latest_texts_up_to_a_bound(adapter, monkeypatch, encoders_work):
    monkeypatch.setattr("flc.models.stock.KEPT", sum(rows[0].nbytes for rows in adapter.texts(["a", "b", "d"])))
    adapter._texts = {}
    for prompt in "abcab":
        adapter.texts([prompt])
    adapter.texts(["d"])
    assert {"b", "d"} <= set(adapter._texts) and "c" not in adapter._texts, "c was asked for longest ago"
    encoders_work.clear()
    assert len(adapter.texts(list("efghe"))) == 5 and encoders_work == [list("efgh")]
    assert set(adapter._texts) == set("efgh"), "one call's are kept together"


def test_a_caption_may_hold_any_character_of_json(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"")
    entry = json.dumps({"file": "a.mp4", "caption": "a cat\u2028sits\x85"}, ensure_ascii=False)
    (tmp_path / "captions.jsonl").write_text(entry + "\n", encoding="utf-8")
    assert [caption for _, caption in read_listing(tmp_path).rows] == ["a cat\u2028sits\x85"]
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file": "", "caption": "a"}))
    with pytest.raises(UserError, match="is no file"):
        read_listing(tmp_path)
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "caption": "half a pair: \\ud83d"}')
    with pytest.raises(UserError, match=r"line 1: caption 'half a pair: .*' is not UTF-8: write it anew"):
        read_listing(tmp_path)


def test_the_null_condition_is_the_negative_prompt(adapter, tmp_path):
    encode(adapter, list(drawn_clips(2, 9, 48, 48, seed=0)), tmp_path, batch=2)
    rows = torch.tensor([0, 1])
    plain, negative = (LatentClips(tmp_path, adapter, n).batch(rows, None).cond for n in ("", "a red square"))
    assert torch.equal(plain.null, adapter.text([""])) and torch.equal(negative.null, adapter.text(["a red square"]))
    both = join([plain.without_text(), negative.without_text()]).text
    assert not torch.equal(both[:2], both[2:]) and torch.equal(plain.text, negative.text)


@pytest.mark.parametrize(("ending", "tick"), [(".gif", 10), (".webp", 1)])
def test_an_animation_has_the_clips_frames_at_its_rate_and_repeats(tmp_path, ending, tick):
    """At 16 frames a second, 62.5 ms, which neither clock has: rounded, but not adding up."""
    shades = np.linspace(0, 1, 9)[:, None, None, None]  # no two alike: Pillow joins those
    write_animation(tmp_path / f"clip{ending}", np.broadcast_to(shades, (9, 16, 24, 3)), fps=16, scale=2)
    with Image.open(tmp_path / f"clip{ending}") as made:
        assert (made.n_frames, made.size, made.info["loop"]) == (9, (48, 32), 0)
        lengths = []
        for number, frame in enumerate(ImageSequence.Iterator(made)):
            frame.load()
            lengths.append(frame.info["duration"])
            # WebP at quality 90 and a GIF's palette: within four of 255 levels
            assert np.abs(np.asarray(frame.convert("RGB"), float) / 255 - shades[number]).max() < 4 / 255
    assert abs(sum(lengths) - 9 * 62.5) <= tick / 2
