"""The stages, each a function from folders to a folder. `compress` chains them; every one has a command."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

from flc.api import Channels, PrunePlan, RecoveryTrainer, Sample, Setting, StepDistiller, View
from flc.data.latents import LatentClips, encode_parts, finish_parts, parts_of
from flc.data.source import Clip, drawn_clips, folder_clips
from flc.errors import PluginError, UserError
from flc.models.channels import narrowed
from flc.models.folder import check_weights, read_json
from flc.models.loaded import check_finite, check_names
from flc.models.prunable import Prunable
from flc.models.stock import at_once
from flc.models.view import removed
from flc.run.folders import DONE, read_mark, run_stage
from flc.run.job import Job
from flc.run.marks import of_data, of_distill, of_prune, of_recover, of_score, student_guidance
from flc.run.objectives import failed, named, student_schedule

PLAN, STUDENT = "plan.json", "student.json"
ENCODED = 8
"""Clips encoded at once, where so many fit."""
#: Clips that the removal of a plan's blocks is measured on, whatever the pruner looked at.
REMOVAL_CLIPS = 64


def clips(job: Job, count: int, seed: int, begin: int = 0) -> Iterator[Clip]:
    """Drawn ones from `seed`, or the user's from number `begin`: those that training has not seen come after its."""
    frames, height, width = job.size
    if job.recipe.data:
        return folder_clips(Path(job.recipe.data), range(begin, begin + count), frames, height, width, job.fps)
    return drawn_clips(count, frames, height, width, seed)


def clips_of_training(job: Job, rows: Sequence[int]) -> Iterator[Clip]:
    """Of the clips that are encoded those of the numbers `rows`; of the user's each is one."""
    frames, height, width = job.size
    if job.recipe.data:
        return folder_clips(Path(job.recipe.data), rows, frames, height, width, job.fps)
    return drawn_clips(job.clips_trained, frames, height, width, job.recipe.seed, rows)


def prepare(job: Job) -> Path:
    """Clips encoded into latents, in parts, and `captions.json`. Each rank encodes its share."""
    r, out = job.recipe, job.out / "data"
    inputs = {"model": job.model_folder} | ({"data": Path(r.data)} if r.data else {})

    def work(folder: Path) -> None:
        rank, world, count = job.ranks.rank, job.ranks.world, job.clips_trained
        job.ranks.barrier()  # the leader has cleared or made `folder`
        with job.console.bar("encode clips", sum(len(rows) for _, rows in parts_of(folder, count)[::world])) as bar:
            source = partial(clips_of_training, job)
            few = min(ENCODED, at_once(*job.size))
            encode_parts(job.adapter, source, count, folder, rank, world, bar.advance, few)
        job.ranks.barrier()
        if job.ranks.leader:
            finish_parts(folder, count)

    run_stage(out, of_data(job), inputs, work, job.ranks)
    job.ranks.barrier()
    return out


def score(job: Job, data: Path) -> Path:
    """Stage I: which blocks stay. `plan.json` holds kept blocks, scores and what the pruner measured."""
    out = job.out / "score"

    def work(folder: Path) -> None:
        plan = make_plan(job, data)
        if job.ranks.leader:
            (folder / PLAN).write_text(json.dumps(plan, indent=1))

    run_stage(out, of_score(job), {"model": job.model_folder, "data": data}, work, job.ranks)
    job.ranks.barrier()
    return out


def make_plan(job: Job, data: Path) -> dict[str, Any]:
    """The same on every rank: they share the clips of a batch, which has one for each rank at the least."""
    r, latents = job.recipe, LatentClips(data, job.adapter, job.recipe.negative_prompt)
    pruner, budget, size = job.algorithm("pruner"), job.budget, max(job.recipe.score.batch, job.ranks.world)
    with job.console.bar(f"score blocks ({r.pruner.name})", 1) as bar:

        def batches(count: int) -> Any:
            bar.restart(-(-count // size))
            for sample in latents.samples(count, size, r.seed, job.adapter.shift):
                yield sample
                bar.advance()

        plan = planned(job, pruner, batches)
        evaluations = job.prunable.evaluations
        removal = removal_error(job, plan, batches)
    share = budget.share(plan.kept, plan.channels)
    if not budget.fits(plan.kept, plan.channels):
        if all(len(blocks) == 1 for blocks in plan.kept.values()):
            least = "one block" + (" of each stack" if len(plan.kept) > 1 else "")
            raise UserError(f"--keep {r.keep} is less than {least}, which is {share:.3g}: give that or more")
        raise UserError(f"pruner {r.pruner.name!r} kept more than --keep {r.keep} allows: report it to its author")
    weights = {s: list(w) for s, w in budget.weights.items()}
    facts = {"pruner": r.pruner.name, "keep": r.keep, "kept": plan.kept, "scores": plan.scores, "weights": weights}
    facts |= {"share": share, "channels": plan.channels}
    return facts | {"details": plan.details, "block_evaluations": evaluations, "removal": removal}


def removal_error(job: Job, plan: PrunePlan, batches: Callable[[int], Iterator[Sample]]) -> dict[str, float]:
    """The error of x0 (FastLightGen Eq 4) of the whole network and of the planned one, on the same clips: what blocks
    do one at a time does not add up."""
    transformer = narrowed(job.adapter, job.adapter.transformer, plan.channels)
    small = Prunable(job.adapter, transformer, spread=job.prunable.spread)
    pruned = small.x0_error(batches(REMOVAL_CLIPS), View(plan.kept))
    return {"clips": REMOVAL_CLIPS, "whole": job.prunable.x0_error(batches(REMOVAL_CLIPS)), "pruned": pruned}


def planned(job: Job, pruner: Any, batches: Any) -> PrunePlan:
    """The pruner's plan, which fits the model; what is wrong with a plugin's is said with its name."""
    said = named("pruner", job.recipe.pruner.name)
    try:
        plan = pruner.plan(job.prunable, batches, job.budget)
        if not isinstance(plan, PrunePlan):
            raise TypeError(f"plan() returned {type(plan).__name__}, not an flc.api.PrunePlan")
        json.dumps(plan.details)
        written = json.loads(json.dumps({"kept": plan.kept, "channels": plan.channels, "scores": plan.scores}))
    except (UserError, OSError):
        raise
    except Exception as error:
        raise PluginError(failed(said, error)) from error
    fitting(job, written, said)
    return plan


def read_plan(job: Job, folder: Path) -> dict[str, Any]:
    """The plan of a folder (or file), which fits the job's model."""
    path = folder / PLAN if folder.is_dir() else folder
    plan = read_json(path)
    if "kept" not in plan:
        raise UserError(f"{path} holds no plan (kept blocks): it is written by `flc score`")
    return {"pruner": "given"} | fitting(job, plan, path)


def fitting(job: Job, plan: dict[str, Any], path: Path | str) -> dict[str, Any]:
    """A plan from JSON, checked against the job's model; `path` says where it is from."""
    whole, kept = job.prunable.full, plan["kept"]
    if not isinstance(kept, dict) or kept.keys() != whole.keys():
        raise UserError(
            f"{path}: kept must name the blocks that stay of each of this model's stacks ({', '.join(whole)})"
        )
    for stack, blocks in kept.items():
        if not rising(blocks, len(whole[stack])):
            number = len(whole[stack])
            raise UserError(f"{path}: kept.{stack}={blocks} must be rising numbers of blocks, 0 to {number - 1}")
    plan["kept"] = {stack: tuple(blocks) for stack, blocks in kept.items()}
    return plan | {"channels": read_channels(job, plan.get("channels"), path)}


def rising(numbers: Any, stop: int) -> bool:
    """Whether this is a list of rising whole numbers, at least one, from 0 and below `stop`."""
    # type(): True and 1.0 are equal to 1, too
    if not isinstance(numbers, list) or not numbers or any(type(i) is not int for i in numbers):
        return False
    return numbers == sorted(set(numbers)) and numbers[0] >= 0 and numbers[-1] < stop


def read_channels(job: Job, channels: Any, path: Path | str) -> Channels | None:
    """A plan's channels, which fit the job's model; None where all stay."""
    if channels is None:
        return None
    if not isinstance(channels, dict) or channels.keys() != job.prunable.full.keys():
        raise UserError(f"{path}: channels must name those that stay of each of this model's stacks, or be null")
    for stack, blocks in channels.items():
        if stack not in job.prunable.ffn:
            raise UserError(f"{path}: channels of {stack}: feed-forward layers of this family cannot be narrowed")
        (total, _), depth = job.prunable.ffn[stack], len(job.prunable.full[stack])
        lists = isinstance(blocks, list) and len(blocks) == depth and all(isinstance(b, list) and b for b in blocks)
        if not lists or len({len(b) for b in blocks}) > 1 or not all(rising(b, total) for b in blocks):
            raise UserError(f"{path}: channels.{stack} must be {depth} lists of rising numbers below {total}, all of "
                            "one length")  # fmt: skip
    return channels


def original(job: Job, plan: dict[str, Any]) -> tuple[Any, Any]:
    """The model's transformer as stages work on it: narrowed by the plan; and, where it was, the one it came from."""
    whole = job.adapter.transformer
    return narrowed(job.adapter, whole, plan["channels"]), None if plan["channels"] is None else whole


def check_plan(job: Job, scored: Path) -> None:
    """What stage III would refuse of this plan, before stage II."""
    from flc.train.nets import check_narrowed

    if job.algorithm("distiller").trains and read_plan(job, scored)["channels"] is not None:
        check_narrowed(job.algorithm("teacher"))


def prune(job: Job, scored: Path) -> Path:
    """The blocks outside the plan removed: a stock `transformer/` folder."""
    out = job.out / "prune"

    def work(folder: Path) -> None:
        if job.ranks.leader:
            plan = read_plan(job, scored)
            small = removed(original(job, plan)[0], plan["kept"], job.adapter.stacks)
            small.save_pretrained(folder / "transformer")  # type: ignore[operator]

    run_stage(out, of_prune(job), {"model": job.model_folder, "plan": scored}, work, job.ranks)
    job.ranks.barrier()
    return out


def check_transformer(job: Job, folder: Path) -> Path:
    """Where the transformer of a stage's folder (or of a transformer folder itself) lies; checked without loading."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give one with a transformer's config.json and *.safetensors")
    path = folder / "transformer" if (folder / "transformer").exists() else folder
    check_weights(path)
    cls: Any = type(job.adapter.transformer)
    config = read_json(path / "config.json")
    if config.get("_class_name") != cls.__name__:
        raise UserError(f"{path} holds a {config.get('_class_name')}, not a {cls.__name__}")
    with torch.device("meta"):
        check_names(cls.from_config(config), path)
    return path


def check_shape(job: Job, plan: dict[str, Any], folder: Path, pruned: bool) -> None:
    """Weights must be of the model's shape but for the channels that the plan leaves and, where they are `pruned`, the
    blocks."""
    config, adapter = read_json(check_transformer(job, folder) / "config.json"), job.adapter
    own: Any = dict(adapter.transformer.config)
    expected = {entry: value for entry, value in own.items() if entry in config and not entry.startswith("_")}
    if plan["channels"] is not None:
        expected |= {entry: len(plan["channels"][stack][0]) for stack, entry in adapter.ffn.items()}
    if pruned:
        expected |= {entry: len(plan["kept"][stack]) for stack, entry in adapter.stacks.items()}
    for entry, value in expected.items():
        found = config.get(entry)
        if (tuple(found) if isinstance(found, list) else found) != (tuple(value) if isinstance(value, list) else value):
            wanted = f"under this plan a {'pruned' if pruned else 'whole'} network has {value}"
            raise UserError(f"{folder} has {entry}={found}, {wanted}: give weights that were made of this model so")


def load_transformer(job: Job, folder: Path) -> Any:
    """What `check_transformer` finds, ready for this adapter."""
    path = check_transformer(job, folder)
    cls: Any = type(job.adapter.transformer)
    try:
        module = cls.from_pretrained(path, torch_dtype=job.adapter.dtype, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not load as a {cls.__name__}: {str(error).splitlines()[0]}") from error
    check_finite(module, path)
    return job.adapter.prepare(module.requires_grad_(False).eval().to(job.adapter.device))


def recover(job: Job, data: Path, scored: Path) -> Path:
    """Stage II: the whole network, made to work without its unimportant blocks too. `transformer/`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "recover"
    objective: RecoveryTrainer = job.algorithm("recovery")

    def work(folder: Path) -> dict[str, Any]:
        plan = read_plan(job, scored)
        full, (source, unpruned) = View(job.prunable.full), original(job, plan)
        objective.bind(Setting(View(plan["kept"]), full, r.steps, r.recover.iterations, None, r.recover.given_share))
        if not objective.trains:
            if job.ranks.leader:
                source.save_pretrained(folder / "transformer")
            return {}
        latents = LatentClips(data, job.adapter, r.negative_prompt)
        facts = train_stage(job, "recover", objective, source, latents, r.recover, folder, None, unpruned)
        if r.engine == "deepspeed" and job.zero == 3:
            job.forget_model()  # its weights are shards now, and what follows runs on the leader alone
        return facts

    inputs = {"model": job.model_folder, "data": data, "plan": scored}
    run_stage(out, of_recover(job), inputs, work, job.ranks)
    job.ranks.barrier()
    return out


@contextmanager
def parked(job: Job, idle: bool) -> Iterator[None]:
    """While the model's own transformer has nothing to do it leaves the device to those that train."""
    if idle:
        job.adapter.transformer.to("cpu")
    yield
    if idle:
        job.adapter.transformer.to(job.adapter.device)


def recovery_of(folder: Path) -> str:
    """What made the weights that stage III begins with; those of another run say it, too."""
    mark = read_mark(folder / DONE)
    return str(mark["options"].get("recovery", {}).get("name", "unknown")) if mark else "unknown"


def distill(job: Job, data: Path, scored: Path, recovered: Path) -> Path:
    """Stage III: the pruned network as a few-step generator. `transformer/`, `student.json`."""
    from flc.train.stage import train_stage

    r, out = job.recipe, job.out / "distill"
    objective: StepDistiller = job.algorithm("distiller")
    composer = job.algorithm("teacher")

    def work(folder: Path) -> dict[str, Any]:
        plan, schedule = read_plan(job, scored), student_schedule(job, objective)
        pruned, full = View(plan["kept"]), View(job.prunable.full)
        objective.bind(Setting(pruned, full, r.steps, r.distill.iterations, schedule, r.distill.given_share))
        unpruned, facts = None if plan["channels"] is None else job.adapter.transformer, {}
        if objective.trains:
            with parked(job, unpruned is None):  # before the other one and the texts' encoder need the device
                latents, source = LatentClips(data, job.adapter, r.negative_prompt), load_transformer(job, recovered)
                real = (composer, pruned)
                facts = train_stage(job, "distill", objective, source, latents, r.distill, folder, real, unpruned)
            if unpruned is not None and r.engine == "deepspeed" and job.zero == 3:
                job.forget_model()
        elif job.ranks.leader:
            small: Any = removed(load_transformer(job, recovered), pruned.kept, job.adapter.stacks)
            small.save_pretrained(folder / "transformer")
        if job.ranks.leader:
            teacher = r.teacher.name if objective.trains else "none"
            declared = schedule.declaration() | {"distiller": r.distiller.name, "teacher": teacher}
            declared |= {"guidance": student_guidance(job), "recovery": recovery_of(recovered)}
            (folder / STUDENT).write_text(json.dumps(declared, indent=1))
        return facts

    inputs = {"model": job.model_folder, "data": data, "plan": scored, "recovered": recovered}
    run_stage(out, of_distill(job), inputs, work, job.ranks)
    job.ranks.barrier()
    return out
