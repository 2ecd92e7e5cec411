"""Gradient routing, exact resume, non-finite stops, interrupted runs."""

from __future__ import annotations

import json
import shutil
import signal

import pytest
import torch

from flc.draws import StepDraws
from flc.errors import Interrupted, NonFinite, UserError
from flc.run.compress import signals
from flc.train import loop

from .conftest import DMD


def equal(a, b):
    assert a.keys() == b.keys()
    return [n for n in a if not torch.equal(a[n], b[n])]


def test_a_loss_reaches_its_own_role_and_no_other(miniature, case):
    m = miniature(case, **({"p": 1.0} if "bernoulli" in case else {}))  # a draw that skips nothing has no loss
    draws = StepDraws(0, "t", 1)
    m.nets.rng = draws
    for phase in m.objective.phases(1):
        m.engine.activate(phase)
        loss = m.objective.loss(phase, m.nets, m.batch_at(StepDraws(0, "b", 1)), 1, draws)
        loss.value.backward()
        for role, parameters in m.engine.parameters.items():
            reached = [n for n, p in parameters.items() if p.grad is not None and p.grad.any()]
            assert bool(reached) == (role == phase), f"phase {phase} reached {len(reached)} parameters of {role}"
            for p in parameters.values():
                p.grad = None
        frozen = [p for n, p in m.source.named_parameters() if "lora_" not in n]
        assert all(p.grad is None for p in frozen), "the frozen network got a gradient"


@pytest.mark.parametrize("draw", ["set", "block"])
@pytest.mark.parametrize(("blocks", "dtype"), [(5, torch.float32), (40, torch.float32), (40, torch.bfloat16)], ids=str)
def test_a_shared_target_has_a_gradient_in_every_iteration(miniature, tmp_path, blocks, dtype, draw):
    """At alpha = 1 and p = .5, where every second draw of the set skips nothing and has no loss."""
    options = {"anchor": "shared", "draw": draw, "warmup": 0}
    log = miniature("bernoulli", blocks=blocks, dtype=dtype, **options).run(tmp_path, 8, save_every=0)
    assert all(metrics["student/grad_norm"] > 0 for metrics in log) and len(log) == 8


def test_phases_follow_the_rhythm(miniature):
    m = miniature("dmd", ratio=3, fake_warmup=2)
    moved = [step for step in range(9) if "student" in m.objective.phases(step)]
    assert moved == [2, 5, 8]
    assert all(m.objective.phases(step)[-1] == "fake" for step in range(9))


def test_the_student_waits_for_the_fakes_warm_up_and_the_fake_moves(miniature, tmp_path):
    m = miniature("dmd", fake_warmup=3)
    before = m.weights()
    m.run(tmp_path, 3)
    changed = set(equal(before, m.weights()))
    assert changed and all(n.startswith("fake.") for n in changed)


def test_resume_equals_an_uninterrupted_run_bit_for_bit(miniature, case, tmp_path):
    whole = miniature(case)
    log = whole.run(tmp_path / "whole", 7)
    first = miniature(case)
    first.run(tmp_path / "cut", 3)  # saves at 2 and at its end, 3
    second = miniature(case)
    assert equal(first.weights(), second.weights()), "training changed nothing, so that resuming proves nothing"
    again = second.run(tmp_path / "cut", 7)
    assert equal(whole.weights(), second.weights()) == []
    assert again == log[3:]
    lines = [json.loads(line) for line in (tmp_path / "cut" / loop.LOG).read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("parts", [2, 4])
def test_a_batch_in_parts_is_the_whole_batch(miniature, case, parts, tmp_path):
    """Losses and gradient norms of the first iteration of each phase, where weights are still the same; float32 sums in
    batches of another size. (Later ones differ by what AdamW makes of rounding; `tests/distributed` holds weights.)
    CoDMD alone compares clips of a batch, those of one part."""
    options = {"relation": 0} if case == "codmd" else {}
    whole = miniature(case, **options).run(tmp_path / "whole", 2)
    found = miniature(case, parts=parts, **options).run(tmp_path / "parts", 2)
    firsts = {name: step for step in (1, 0) for name in whole[step] if name.endswith(("loss", "grad_norm"))}
    assert len(firsts) >= 2
    for name, step in firsts.items():
        assert found[step][name] == pytest.approx(whole[step][name], rel=1e-3), name


def test_the_seconds_of_a_training_are_those_of_all_sittings(miniature, tmp_path):
    first = miniature("sft")
    first.run(tmp_path, 2)
    assert first.cost.seconds > 0
    state = loop.checkpoint_path(tmp_path) / "state.json"
    held = json.loads(state.read_text())
    assert held["step"] == 2 and 0 < held["seconds"] <= first.cost.seconds
    state.write_text(json.dumps(held | {"seconds": 1000.0}))
    second = miniature("sft")
    second.run(tmp_path, 3)
    assert 1000 < second.cost.seconds < 1060, "one iteration of the miniature takes no minute"


def test_the_folder_of_checkpoints_is_on_the_disk_before_the_first_of_them(miniature, tmp_path, monkeypatch):
    synced, seen = [], []
    monkeypatch.setattr(loop, "sync", synced.append)
    miniature("sft").run(tmp_path / "checkpoints", 1, on_step=lambda step, metrics: seen.extend(synced))
    assert seen == [tmp_path]


def test_a_signal_after_a_loop_that_failed_stops_at_once(miniature, tmp_path):
    def fail(step, metrics):
        assert loop.STOP.looping
        raise RuntimeError("as a plugin may")

    with pytest.raises(RuntimeError, match="as a plugin may"):
        miniature("sft").run(tmp_path, 2, on_step=fail)
    with pytest.raises(Interrupted), signals():
        signal.raise_signal(signal.SIGINT)


def test_a_kill_between_checkpoints_repeats_from_the_last_one(miniature, tmp_path):
    whole = miniature("dmd")
    whole.run(tmp_path / "whole", 6)
    first = miniature("dmd")
    first.run(tmp_path / "cut", 4, save_every=2)
    # what kill -9 while saving leaves: a half-written temporary folder and log lines beyond the checkpoint
    (tmp_path / "cut" / ".step-0000006").mkdir()
    (tmp_path / "cut" / ".step-0000006" / "student.safetensors").write_bytes(b"half")
    with open(tmp_path / "cut" / loop.LOG, "a") as file:
        file.write('{"step": 5, "fake/loss": 1.0}\n{"step": 6, "fa')
    second = miniature("dmd")
    second.run(tmp_path / "cut", 6)
    assert equal(whole.weights(), second.weights()) == []
    steps = [json.loads(line)["step"] for line in (tmp_path / "cut" / loop.LOG).read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


def test_a_missing_checkpoint_is_an_error(miniature, tmp_path):
    miniature("dmd").run(tmp_path, 2)
    shutil.rmtree(tmp_path / "step-0000002")
    with pytest.raises(UserError, match="step-0000002, which is missing"):
        miniature("dmd").run(tmp_path, 4)


def test_non_finite_stops_before_the_optimizer(miniature, tmp_path):
    m = miniature("dmd")
    with torch.no_grad():
        next(iter(m.engine.parameters["fake"].values())).fill_(float("nan"))
    before = m.weights()
    with pytest.raises(NonFinite, match="'fake'"):
        m.run(tmp_path, 1)
    after = m.weights()
    assert [n for n in equal(before, after) if not before[n].isnan().any()] == []


def test_a_signal_saves_and_stops(miniature, tmp_path):
    whole = miniature("bernoulli")
    whole.run(tmp_path / "whole", 5, save_every=100)
    first = miniature("bernoulli")
    original = first.batch_at

    def signalled(draws):
        loop.STOP.signal = signal.SIGTERM if signalled.count == 2 else None
        signalled.count += 1
        return original(draws)

    signalled.count = 0
    first.batch_at = signalled
    try:
        with pytest.raises(Interrupted) as caught:
            first.run(tmp_path / "cut", 5, save_every=100)
    finally:
        loop.STOP.signal = None
    assert caught.value.signal == signal.SIGTERM
    assert loop.checkpoint_path(tmp_path / "cut").name == "step-0000003"
    second = miniature("bernoulli")
    second.run(tmp_path / "cut", 5, save_every=100)
    assert equal(whole.weights(), second.weights()) == []


def test_a_skipped_block_decays_as_one_with_zero_gradient(miniature, tmp_path):
    """AdamW passes over a None gradient; here a block skipped in an iteration has zero: only decay and momentum."""
    m = miniature("bernoulli", p=1.0, warmup=0, lr=1e-2, ema=0)
    removed = {n: p.detach().clone() for n, p in m.engine.parameters["student"].items() if n.startswith("blocks.1.")}
    assert removed
    m.run(tmp_path, 2)
    after = m.engine.parameters["student"]
    for name, before in removed.items():
        assert torch.allclose(after[name], before * (1 - 1e-2 * 0.01) ** 2, rtol=1e-6), name  # lr x weight decay


def test_muon_moves_the_blocks_matrices_and_adamw_the_rest(miniature, tmp_path):
    """Of the first step: AdamW's is lr times the gradient's sign; Muon's has a largest singular value of about its rate
    times the square root of rows over columns (its iteration leaves them between .7 and 1.2). The sign of a 24 x 24
    gradient has one of up to 24."""
    m = miniature("bernoulli-muon", alpha=0.5, p=0.0, warmup=0, weight_decay=0.0, lr=1e-3, matrices=0.01)
    before = {n: p.detach().clone() for n, p in m.engine.parameters["student"].items()}
    m.run(tmp_path, 1)
    kinds = {"muon": 0, "adamw": 0}
    for name, p in m.engine.parameters["student"].items():
        moved = before[name] - p.detach()
        if name.startswith("blocks.") and p.ndim == 2:
            kinds["muon"] += 1
            size = torch.linalg.svdvals(moved) / (0.01 * max(1, p.shape[0] / p.shape[1]) ** 0.5)
            assert 0.7 < float(size.max()) < 1.3, name
        else:
            kinds["adamw"] += 1
            assert float(moved.abs().max()) <= 1.01e-3, name
    assert min(kinds.values()) > 10


def test_log_of_the_drift(miniature, tmp_path):
    log = miniature("bernoulli").run(tmp_path, 3)
    assert log[0]["student/drift"] == 0.0, "the trained network starts as the original"
    assert log[2]["student/drift"] > 0


def test_what_is_measured_between_two_lines_of_the_log_is_in_the_second(miniature, tmp_path):
    every = miniature("bernoulli", drift_every=3).run(tmp_path / "every", 8)
    miniature("bernoulli", drift_every=3).run(tmp_path / "some", 8, log_every=4)
    lines = [json.loads(line) for line in (tmp_path / "some" / loop.LOG).read_text().splitlines()]
    drift = [metrics["student/drift"] for metrics in every if "student/drift" in metrics]
    assert len(drift) == 3, "iterations 0, 3 and 6"
    assert [line["step"] for line in lines] == [4, 8]
    assert [line["student/drift"] for line in lines] == [(drift[0] + drift[1]) / 2, drift[2]]
    mean = sum(metrics["student/loss"] for metrics in every[4:]) / 4
    assert lines[1]["student/loss"] == pytest.approx(mean, rel=1e-15), "some versions of Python's sum round once"


@pytest.mark.parametrize("case", ["bernoulli", "dmd"])
def test_a_stop_between_two_lines_of_the_log_changes_no_byte_of_it(miniature, case, tmp_path):
    """Lines at 3, 6 and 8, the end; a checkpoint at 4, after which it is killed at 5; later a signal's at 7."""
    miniature(case).run(tmp_path / "whole", 8, save_every=4, log_every=3)

    def killed(step: int, metrics: dict[str, float]) -> None:
        if step == 5:
            raise KeyboardInterrupt

    def stopped(step: int, metrics: dict[str, float]) -> None:
        loop.STOP.signal = signal.SIGTERM if step == 7 else None

    with pytest.raises(KeyboardInterrupt):
        miniature(case).run(tmp_path / "cut", 8, save_every=4, log_every=3, on_step=killed)
    try:
        with pytest.raises(Interrupted):
            miniature(case).run(tmp_path / "cut", 8, save_every=4, log_every=3, on_step=stopped)
    finally:
        loop.STOP.signal = None
    assert loop.checkpoint_path(tmp_path / "cut").name == "step-0000007"
    miniature(case).run(tmp_path / "cut", 8, save_every=4, log_every=3)
    assert (tmp_path / "cut" / loop.LOG).read_bytes() == (tmp_path / "whole" / loop.LOG).read_bytes()
    assert len((tmp_path / "cut" / loop.LOG).read_text().splitlines()) == 3


def test_bfloat16_weights_move_by_less_than_their_resolution(miniature, tmp_path):
    """At the paper's rates an update rounds away in bfloat16: the optimizer steps float32 masters, which are saved."""
    m = miniature("bernoulli", dtype=torch.bfloat16, p=1.0, lr=1e-6, warmup=0, ema=0.5)
    start = {n: p.detach().float().clone() for n, p in m.engine.parameters["student"].items()}
    m.run(tmp_path, 4)
    name = "blocks.0.ffn.net.2.weight"
    moved = (m.engine.masters["student"][name] - start[name]).abs()
    assert 1e-6 < float(moved.mean()) < 5e-6, "four steps of Adam at 1e-6 move a weight by up to 4e-6"
    assert m.engine.parameters["student"][name].dtype == torch.bfloat16
    assert torch.equal(m.engine.parameters["student"][name], m.engine.masters["student"][name].bfloat16())
    again = miniature("bernoulli", dtype=torch.bfloat16, p=1.0, lr=1e-6, warmup=0, ema=0.5)
    again.engine.load(loop.checkpoint_path(tmp_path))
    assert torch.equal(again.engine.masters["student"][name], m.engine.masters["student"][name])


def test_float16_is_refused(miniature):
    with pytest.raises(UserError, match="float16 cannot train"):
        miniature("bernoulli", dtype=torch.float16)


def test_ema_lags_behind_the_weights(miniature, tmp_path):
    m = miniature("bernoulli", ema=0.9)
    start = {n: p.detach().clone() for n, p in m.engine.parameters["student"].items()}
    m.run(tmp_path, 4)
    name = "proj_out.weight"
    moved = m.engine.parameters["student"][name].detach() - start[name]
    averaged = m.engine.averages["student"].values[name] - start[name]
    assert 0 < float(averaged.norm()) < float(moved.norm())


def test_fake_learning_rate_defaults_to_a_fifth(miniature):
    assert miniature("dmd").roles["fake"].optim.lr == pytest.approx(DMD["lr"] / 5)
    assert miniature("dmd", fake_lr=1e-4).roles["fake"].optim.lr == 1e-4


def test_lora_fake_starts_as_the_frozen_network_and_leaves_it_alone(miniature, make_condition, tmp_path):
    m = miniature("dmd-lora")
    cond, x, t = m.batch_at(StepDraws(0, "b", 0)).cond, torch.randn(4, 16, 3, 4, 4), torch.full((4,), 0.5)
    view = m.roles["fake"].view
    with torch.no_grad():
        frozen = m.nets._teacher.net(x, t, cond, type(view)(view.kept))
        assert torch.equal(m.nets["fake"](x, t, cond), frozen), "a fresh adapter adds nothing"
    m.run(tmp_path, 3)
    with torch.no_grad():
        assert not torch.equal(m.nets["fake"](x, t, cond), frozen)
        assert torch.equal(m.nets._teacher.net(x, t, cond, type(view)(view.kept)), frozen)


def test_draws_are_a_function_of_seed_stage_and_step_and_shard_exactly():
    x = torch.zeros(4, 2)
    whole = StepDraws(1, "s", 5)
    normal, uniform, shared = whole.normal(x), whole.uniform(4), whole.shared_bernoulli(0.5, 8)
    parts = [StepDraws(1, "s", 5, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat([p.normal(x[:2]) for p in parts]), normal)
    assert torch.equal(torch.cat([p.uniform(2) for p in parts]), uniform)
    assert [p.shared_bernoulli(0.5, 8) for p in parts] == [shared, shared]
    for other in (StepDraws(2, "s", 5), StepDraws(1, "r", 5), StepDraws(1, "s", 6)):
        assert not torch.equal(other.normal(x), normal)


def test_a_uniform_draw_is_below_1_whatever_is_drawn(monkeypatch):
    """15 + the largest float32 below 1 is 16 in float32: of 16 strata the last would end at 1, a step too many."""
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 1 - 2**-24))
    drawn = StepDraws(0, "s", 0).uniform(16)
    assert float(drawn.max()) < 1 and all(float((drawn * n).max()) < n for n in (3, 4, 50, 1000))
    assert drawn.sort().values.tolist() == pytest.approx([(n + 1) / 16 for n in range(16)], abs=1e-7)  # float32
