"""What a dry run counts for each kind of role."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flc.api import Optim, Role, View
from flc.models.folder import EMBEDDED
from flc.recipe import resolve
from flc.run.compress import completed
from flc.run.console import Console
from flc.run.disk import disk_needed
from flc.run.estimate import bound, calls_of_table
from flc.run.job import Job
from flc.run.memory import Sharing, bytes_of_role, bytes_of_stage, frozen_networks, head_parameters
from flc.run.stages import STAGES
from flc.train.launch import Ranks

TRAINED = Optim(1e-3)


@pytest.mark.parametrize(
    ("role", "width", "expected"),
    [
        (Role("frozen"), 2, 0),
        (Role("full", optim=TRAINED), 4, 4 + 4 + 8),  # weights, gradients, two moments
        (Role("full", optim=TRAINED, ema=0.9), 2, 2 + 2 + 8 + 4 + 4),  # and masters, and an average
        (Role("head", optim=TRAINED), 4, 4 + 4 + 8),
        (Role("follow", of="student", ema=0.9), 2, 2 + 4),  # running weights and the float32 average
    ],
)
def test_bytes_of_a_parameter(role, width, expected):
    assert bytes_of_role(10, 10, role, width, Sharing()) == 10 * expected


def test_a_heads_parameters_are_counted_without_making_it():
    role = Role("head", optim=TRAINED, head=lambda width: torch.nn.Linear(width, 3))
    job: Any = SimpleNamespace(adapter=SimpleNamespace(transformer=None, width=lambda transformer: 10**7))
    assert head_parameters(job, role) == 3 * 10**7 + 3


@pytest.mark.parametrize(
    ("zero", "expected"),
    # weights, gradients, moments and masters, average: what 4 ranks share
    [(1, 2 + 2 + 12 / 4 + 4), (2, 2 + 2 / 4 + 12 / 4 + 4), (3, (2 + 2 + 12 + 4) / 4)],
)
def test_bytes_of_a_parameter_on_one_of_several_ranks(zero, expected):
    role = Role("full", optim=TRAINED, ema=0.9)
    assert bytes_of_role(100, 100, role, 2, Sharing(zero, 4)) == 100 * expected
    assert bytes_of_role(100, 100, role, 2, Sharing(zero, 1)) == 2000, "one rank holds all"
    gone = 12 / 4
    assert bytes_of_role(100, 100, role, 2, Sharing(zero, 4, offload=True)) == 100 * (expected - gone), "on the CPU"


COUNT = sum(v.numel() for v in load_file(EMBEDDED / "transformer" / "diffusion_pytorch_model.safetensors").values())
#: Two checkpoints of float32 weights, two moments and an average; and the whole network's best weights, in float32.
CHECKPOINTS, BEST = 2 * 16 * COUNT, 4 * COUNT


@pytest.fixture
def disk_of(tmp_path):
    def disk(*stages: str, **options: object) -> int:
        recipe = resolve({"keep": 0.5, "pruner": {"name": "elbo", "after": 0}, **options}, {}, {})
        job = Job(completed(recipe), tmp_path / "out", Console(quiet=True), Ranks())
        return disk_needed(job, stages)

    return disk


def test_disk_holds_the_stages_two_checkpoints_and_the_best_weights(disk_of):
    """The network is 4 bytes a number, and half as large when it is pruned."""
    others = sum(f.stat().st_size for f in EMBEDDED.rglob("*.safetensors") if f.parent.name != "transformer")
    assert disk_of("evaluate") == 0 and disk_of("prune") == 2 * COUNT
    assert disk_of("export") == 2 * COUNT + others
    assert disk_of("recover") == 4 * COUNT + CHECKPOINTS + BEST
    assert disk_of("recover", recover={"check_every": 0}) == 4 * COUNT + CHECKPOINTS
    assert disk_of("distill") == 2 * COUNT + CHECKPOINTS + BEST // 2
    assert disk_of(*STAGES) == (0 + 2 + 4 + 2 + 2) * COUNT + others + CHECKPOINTS + BEST, "one trains after the other"


def test_disk_holds_what_is_trained_before_the_blocks_are_chosen(disk_of):
    after = {"pruner": {"name": "elbo", "after": 8}}
    assert disk_of("score") == 0 and disk_of("score", **after) == 4 * COUNT + CHECKPOINTS + BEST
    assert disk_of("score", **after, recover={"iterations": 1}) == 0, "half of one iteration is none"
    assert disk_of("score", **after, recovery={"name": "none"}) == 0
    assert disk_of("recover", recovery={"name": "none"}) == 4 * COUNT


def test_disk_of_a_stage_that_is_done_is_not_asked_for_again(disk_of, tmp_path):
    for stage in ("prune", "recover", "pipeline"):
        (tmp_path / "out" / stage).mkdir(parents=True)
        (tmp_path / "out" / stage / "done.json").write_text("{}")
    assert disk_of("prune", "recover", "export") == 0


FULL, FROZEN, PASSED, LORA = Role("full", optim=TRAINED), Role("frozen"), Role("frozen", passes=True), Role("lora")
PART = Role("frozen", View({"blocks": (0,)}), passes=True)


@pytest.mark.parametrize(
    ("roles", "apart", "taught", "expected"),
    [
        ([FULL, FROZEN], False, False, [(60, True)]),  # recovery against the original
        ([FULL], False, False, [(60, False)]),  # plain recovery: the original stands by, whole
        ([FULL], False, True, [(60, True)]),  # the teacher
        ([FULL, PASSED], False, True, [(60, False)]),  # a GAN on its features
        ([FULL, FROZEN], True, False, [(100, True), (60, False)]),  # what was narrowed is copied, and stands by
        ([FULL], True, True, [(100, True), (60, True)]),  # both sides of the teacher
        ([FULL, PASSED], True, True, [(100, False), (60, True)]),
        ([FULL, PART], True, True, [(100, True), (60, False)]),  # features of fewer blocks: the incoming weights'
        ([FULL, LORA], True, False, [(100, False), (60, True)]),
    ],
)
def test_which_frozen_networks_a_stage_holds_and_which_are_sharded(roles, apart, taught, expected):
    assert frozen_networks(roles, {"blocks": (0, 1)}, (100, 60), apart, taught) == expected


WHOLE = sum(v.numel() for v in load_file(EMBEDDED / "transformer" / "diffusion_pytorch_model.safetensors").values())


def stage_three(tmp_path, **sections: Any) -> int:
    """Bytes that stage III of the embedded model holds."""
    job = Job(completed(resolve(sections, {}, {})), tmp_path, Console(quiet=True), Ranks())
    objective, _ = bound(job, "distill", "distiller", View({"blocks": (0, 1, 2, 3, 4, 5, 6)}))
    return bytes_of_stage(job, objective, None, True)


@pytest.mark.parametrize(
    ("sections", "networks"),
    [
        ({}, 1),
        ({"distill": {"real": "recovered"}}, 0),
        ({"recovery": {"anchor": "shared"}}, 0),
        ({"recovery": {"anchor": "shared"}, "distill": {"real": "original"}}, 1),
        ({"recovery": "none"}, 0),  # the recovered network is the original
        ({"teacher": {"beta2": 0.0, "spread2": 0.0}}, 0),
        ({"teacher": "weak"}, 0),
        ({"teacher": "strong"}, 1),
        ({"distiller": "magic", "teacher": {"name": "magic", "network": "unpruned"}}, 0),  # its branch is on the other
    ],
)
def test_the_original_is_counted_beside_the_recovered_network_where_stage_three_asks_for_it(
    tmp_path, sections, networks
):
    """Of the embedded model, in float32, against the same run of which the teacher takes the recovered network."""
    recovered = dict(sections) | {"distill": {"real": "recovered"}}
    assert stage_three(tmp_path, **sections) - stage_three(tmp_path, **recovered) == networks * 4 * WHOLE


@pytest.mark.parametrize(
    ("evaluate", "world", "expected"),
    [
        # 96 clips in batches of 48: two; many steps twice (guided), few twice, few, pruned, recovered, student
        ({"clips": 96, "batch": 48}, 1, 2 * (3 * 2 * 50 + 2 * 4 + 4 + 4)),
        ({"clips": 96, "batch": 48, "rows": "student"}, 1, 2 * 4),
        ({"clips": 96, "batch": 48, "rows": "student"}, 8, 2 * 4),  # the leader alone measures drawn clips
        ({"batch": 8, "rows": "student", "suite": "vbench"}, 1, 10 * 5 // 8 * 4 + 4),
        ({"batch": 8, "rows": "student", "suite": "vbench"}, 4, 2 * 4),  # 50 videos, of which a rank has 12 or 13
    ],
)
def test_calls_of_the_tables_networks(tmp_path, evaluate, world, expected):
    job = Job(completed(resolve({"evaluate": evaluate}, {}, {})), tmp_path, Console(quiet=True), Ranks(world=world))
    job.asked = [None] * 10 if "suite" in evaluate else []
    assert calls_of_table(job) == expected
