"""Our batched sampler, `flc generate` and the stock pipelines give the same frames."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from flc.api import View
from flc.data.shapes import all_captions, draw, sample_spec
from flc.data.source import drawn_clips, read_video
from flc.evaluate.sampling import condition, make_prompts
from flc.export.pipeline import save_pipeline
from flc.models.folder import EMBEDDED
from flc.recipe import resolve
from flc.sample import generators_for, noise_for, sample
from flc.schedule import Walk
from flc.train.nets import RoleNet

TINY = Path(__file__).parents[2] / "benchmarks" / "scales" / "tiny.yaml"
PROMPT = "a blue square moving up"
SIZE = {"height": 48, "width": 48, "num_frames": 9}


@pytest.fixture(scope="module", params=["sde", "ode"])
def student(request, adapter, tmp_path_factory):
    """A pipeline folder as export writes it, with a few-step schedule."""
    folder = tmp_path_factory.mktemp(request.param)
    save_pipeline(adapter, EMBEDDED, adapter.transformer, adapter.schedule(4, 3.0, request.param).scheduler, folder)
    return request.param, folder


def stock(folder, adapter, image=None, guidance=1.0, steps=4, generator=None):
    pipe = adapter.stock_pipeline(folder, image is not None)
    pipe.set_progress_bar_config(disable=True)
    torch.manual_seed(7)
    extra = {} if image is None else {"image": image}
    return pipe(prompt=PROMPT, **extra, **SIZE, num_inference_steps=steps, guidance_scale=guidance, output_type="np",
                generator=generator).frames[0]  # fmt: skip


def ours(adapter, scheduler, steps, guidance, first=None):
    given = None if first is None else torch.tensor([True])
    latent = None if first is None else adapter.encode(first[None, None])
    cond = adapter.condition([PROMPT], "", latent, given)
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    generators = generators_for([7])
    noise = noise_for(adapter.latent_shape(9, 48, 48), generators)
    return adapter.decode(sample(net, Walk(scheduler, steps), guidance, noise, cond, generators))[0]


# float32 sums in another order (text padding folded, guidance in one batch), through 4 to 6 steps and a decoder;
# one 8-bit level is .004
TOLERANCE = 2e-3


def test_text_to_video(student, adapter):
    sampler, folder = student
    assert (
        np.abs(stock(folder, adapter) - ours(adapter, adapter.schedule(4, 3.0, sampler).scheduler, 4, 1.0)).max()
        < TOLERANCE
    )


def test_image_to_video(student, adapter):
    sampler, folder = student
    first = draw(sample_spec(np.random.default_rng(0), PROMPT))[0]
    image = Image.fromarray((first * 255).round().astype(np.uint8))
    exact = np.asarray(image, np.float32) / 255
    got = ours(adapter, adapter.schedule(4, 3.0, sampler).scheduler, 4, 1.0, exact)
    assert np.abs(stock(folder, adapter, image) - got).max() < TOLERANCE


def test_guided_teacher(adapter):
    got = ours(adapter, adapter.teacher_scheduler(), 6, 4.0)
    assert np.abs(stock(EMBEDDED, adapter, guidance=4.0, steps=6) - got).max() < TOLERANCE


def test_only_given_first_frames_are_encoded(adapter, monkeypatch):
    clips = list(drawn_clips(4, 9, 48, 48, seed=0))
    prompts, seen, encode = make_prompts(clips, 1, 0.5, 0), [], adapter.encode
    monkeypatch.setattr(adapter, "encode", lambda video: seen.append(len(video)) or encode(video))
    cond = condition(adapter, prompts, "", 9)
    assert seen == [2] and cond.given.tolist() == [True, True, False, False]
    assert torch.equal(cond.first[:2], encode(prompts.first[:2, None])) and cond.first[2:].abs().max() == 0
    assert condition(adapter, make_prompts(clips, 1, 0.0, 0), "", 9).given is None and seen == [2]


def test_a_row_of_the_comparison_is_every_caption_twice_and_half_of_it_has_a_first_frame():
    compared = yaml.safe_load(TINY.read_text())["evaluate"]["clips"]
    assert compared == resolve({"preset": "full"}, {}, {}).evaluate.clips == 2 * len(all_captions()) == 288
    assert resolve({}, {}, {}).evaluate.clips == 40, "the first line takes minutes"
    prompts = make_prompts(list(drawn_clips(144, 3, 16, 16, seed=7919)), 2, 0.5, 0)
    assert Counter(prompts.captions) == dict.fromkeys(all_captions(), 2) and prompts.given.sum() == 144
    by_caption = dict(zip(prompts.captions, prompts.given, strict=True))
    assert [by_caption[c] for c in prompts.captions] == prompts.given.tolist(), "diversity needs two from text of one"


def test_a_clip_does_not_depend_on_its_batch(adapter):
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    schedule, shape = adapter.schedule(3, 3.0, "sde"), adapter.latent_shape(9, 48, 48)
    prompts, two, one = [PROMPT, "a red circle moving left"], generators_for([7, 8]), generators_for([8])
    together = sample(net, schedule, 1.0, noise_for(shape, two), adapter.condition(prompts), two)
    alone = sample(net, schedule, 1.0, noise_for(shape, one), adapter.condition(prompts[1:]), one)
    assert torch.allclose(together[1], alone[0], atol=1e-3)  # float32 sums of another batch size, three steps


def test_a_seeded_ode_student_is_the_same_whether_the_seed_is_the_generators_or_torchs(student, adapter):
    """An sde student is not: a generator of the same seed leaves torch's where it was, and its first noise comes
    again in the first step."""
    sampler, folder = student
    own = stock(folder, adapter, generator=torch.Generator().manual_seed(7))
    assert np.array_equal(stock(folder, adapter), own) == (sampler == "ode")


@pytest.mark.parametrize("steps", [2, 4])
def test_every_step_of_an_sde_student_has_noise_of_its_own(adapter, make_condition, steps):
    """With the exact consistency function of N(0, .3^2) the spread stays .300; with the first noise once more in the
    first step, Euler's, it is .317 after two. At the second sigma what is not x0 is as good as independent."""
    std, shape, generators = 0.3, (16, 3, 4, 4), generators_for(list(range(400)))
    schedule, noise, seen = adapter.schedule(steps, 5.0, "sde"), noise_for(shape, generators), []

    def exact(x, t, cond, view=None):
        seen.append(x)
        t = t.view(-1, 1, 1, 1, 1)
        return (x - x * std / ((1 - t) ** 2 * std**2 + t**2) ** 0.5) / t

    cond = make_condition(400, image=False)
    made = sample(exact, schedule, 1.0, noise, cond, generators)
    error = 0.3 / (2 * made.numel()) ** 0.5  # the standard error of a spread: .0003
    assert float(made.std()) == pytest.approx(std, abs=4 * error)
    fresh = (seen[1] - (1 - schedule.sigmas[1]) * std * noise) / schedule.sigmas[1]
    assert abs(float((fresh * noise).mean())) < 4 / noise.numel() ** 0.5


def test_flc_generate_has_the_pipelines_frames_and_writes_them(student, adapter, tmp_path, monkeypatch):
    from flc.run import generate as command

    held, write = [], command.write_video
    monkeypatch.setattr(
        command, "write_video", lambda path, video, *more: (held.append(video), write(path, video, *more))
    )
    _, folder = student
    out = tmp_path / "clip.mp4"
    command.generate(folder, PROMPT, None, 7, 4, 1.0, 48, 48, 9, "", "cpu", "auto", out)
    frames = stock(folder, adapter)
    assert np.array_equal(held[0], frames)  # the same pipeline, seed and process: bit for bit
    shown = read_video(out, 9, 192, 192)  # small clips are written four times as large
    # H.264 at crf 16 with chroma at half resolution: a mean error of a few 8-bit levels
    assert np.abs(shown - frames.repeat(4, 1).repeat(4, 2)).mean() < 0.02


def test_a_stock_pipeline_in_bfloat16_has_the_autoencoder_that_clips_were_measured_with(adapter):
    pipe = adapter.stock_pipeline(EMBEDDED, False, "bfloat16")
    ours = type(adapter)().load(EMBEDDED, dtype="bfloat16")
    for one in (pipe, ours.pipe):
        assert one.vae.dtype == torch.float32 and one.transformer.patch_embedding.weight.dtype == torch.bfloat16
    schedule = adapter.schedule(4, 3.0, "ode")
    pipe.scheduler = schedule.scheduler
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(7)
    frames = pipe(prompt=PROMPT, **SIZE, num_inference_steps=4, guidance_scale=1.0, output_type="np",
                  generator=generator).frames[0]  # fmt: skip
    net = RoleNet(ours, ours.transformer, ours.transformer, View())
    generators = generators_for([7])
    noise = noise_for(ours.latent_shape(9, 48, 48), generators)
    made = ours.decode(sample(net, schedule, 1.0, noise, ours.condition([PROMPT]), generators))[0]
    # bfloat16 has 8 bits: text padding folded, through four steps; a mean of two 8-bit levels
    assert np.abs(frames - made).mean() < 8e-3


def test_a_rows_time_is_without_what_the_first_call_costs_once(adapter, monkeypatch):
    """Here a quarter of a second, to four steps that take none; and its clips are the same."""
    from flc.evaluate import sampling

    calls: list[int] = []

    def first_slow(x, t, cond):
        clock[0] += 0.01 if calls else 0.25
        calls.append(len(x))
        return torch.zeros_like(x)

    clock = [0.0]
    monkeypatch.setattr(sampling, "now", lambda device: clock[0])
    prompts = sampling.make_prompts(list(drawn_clips(4, 9, 48, 48, seed=0)), 1, 0.0, 0)
    schedule = adapter.schedule(4, 3.0, "ode").scheduler
    row = sampling.Row("student", "student", first_slow, schedule, 4, 1.0, 7)
    cond = sampling.condition(adapter, prompts, "", 9)
    made, seconds = sampling.generate(adapter, row, prompts, cond, adapter.latent_shape(9, 48, 48), 2, lambda: None)
    assert calls == [2] * 9 and seconds == pytest.approx(8 * 0.01 / 4)
    assert made.video.shape == (4, 9, 48, 48, 3)
