"""`flc compress` and the stage commands: from flags to finished folders."""

from __future__ import annotations

import signal
import tempfile
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from flc.errors import Interrupted, UserError
from flc.family import EVERY, Part
from flc.files import read_text, write_text
from flc.models.folder import EMBEDDED, EMBEDDED_NAME, by_name, check
from flc.models.notes import read_notes
from flc.options import parse_set
from flc.recipe import ALGORITHMS, AUTO, STAGE_OPTIONS, Choice, Recipe, lock_text, placed, read_yaml, resolve, settled
from flc.registry import create
from flc.run.console import Console
from flc.run.derived import student_guidance
from flc.run.fingerprints import DONE
from flc.run.folders import (
    FINGERPRINT,
    PARTIAL,
    check_out,
    check_resumed,
    check_store,
    held,
    nearest_existing,
    read_mark,
    require,
)
from flc.run.job import Job, check_device
from flc.run.objectives import check_objectives, said_before
from flc.run.plan import read_plan
from flc.run.provenance import ahead, changed, check_chain, check_goes_on
from flc.run.stage import Stage
from flc.run.stages import PIPELINE, STAGES, places, until
from flc.run.stages.evaluate import check_complete
from flc.run.stages.export import EXPORT
from flc.run.stages.prepare import PREPARE
from flc.run.stages.score import SCORE
from flc.run.table import print_table
from flc.run.walk import check_scheduler
from flc.train.launch import Ranks, from_environment
from flc.train.loop import STOP

LOCK = "recipe.lock.yaml"
#: Flags that are not part of a recipe.
OUTSIDE = {"out", "recipe", "set_", "resume", "dry_run", "until", "store", "ranks", "plan", "weights", "pipeline"}
#: Flags for an option of a section.
SECTIONS = {"suite": "evaluate", "manifest": "evaluate"}


def recipe_from(values: dict[str, Any]) -> Recipe:
    """The resolved recipe of a command's flags, on top of the lock file of a run that goes on."""
    given: dict[str, Any] = {
        k: str(v) if isinstance(v, Path) else v for k, v in values.items() if k not in OUTSIDE and v is not None
    }
    for name, section in SECTIONS.items():
        if name in given:
            given.setdefault(section, {})[name] = given.pop(name)
    lock = values["out"] / LOCK
    if values.get("recipe"):
        file = read_yaml(values["recipe"])
        check_preset(given, file, values["recipe"], "leave it out")
    elif lock.exists() and (values.get("resume") or not values.get("dry_run")):
        file = read_yaml(lock)
        check_preset(given, file, lock, "give another --out")
    else:
        file = {}
    for said in (given, file):
        if said.get("model") == EMBEDDED.name:  # what it is when none is given
            said["model"] = None
    if given.get("model"):
        given["model"] = str(by_name(Path(given["model"])))
    alone = values.get("pipeline")
    small = alone is not None and read_notes(alone).get("base_model") == EMBEDDED_NAME
    return resolve(file, given, parse_set(values.get("set_") or []), small)


def check_preset(given: dict[str, Any], file: dict[str, Any], path: Path, way_out: str) -> None:
    """A file with a preset of its own and the stages' lengths leaves nothing for another preset to decide."""
    lengths = all(isinstance(file.get(stage), dict) and "iterations" in file[stage] for stage in ("recover", "distill"))
    if lengths and "preset" in file and given.get("preset", file["preset"]) != file["preset"]:
        text = f"--preset {given['preset']}: {path} says {file['preset']}, and holds the stages' lengths"
        raise UserError(f"{text}: {way_out}, or set them with --set")


def completed(recipe: Recipe, elsewhere: bool = False) -> Recipe:
    """The recipe with every option of its algorithms, checked and typed, and with this machine's device and dtype: what
    the lock file must hold for a later version with other defaults to repeat the run, and what fingerprints must not
    tell apart ("32" from 32). `elsewhere`: the run's GPUs are another machine's."""
    device, dtype = settled(recipe.device, recipe.dtype, elsewhere or torch.cuda.is_available())
    chosen: dict[str, Any] = {"device": device, "dtype": dtype}
    for kind in ALGORITHMS:
        choice: Choice = getattr(recipe, kind)
        options = create(kind, choice.name, choice.options).options.model_dump(mode="json")
        chosen[kind] = Choice(name=choice.name, **options)
    return recipe.model_copy(update=chosen)


@contextmanager
def signals() -> Iterator[None]:
    """SIGINT and SIGTERM: a training loop saves first; anything else stops at once (stages are atomic)."""

    def handle(number: int, frame: Any) -> None:
        if STOP.looping and STOP.signal is None:
            STOP.signal = number
        else:
            raise Interrupted(number)

    # only the main thread may handle signals; where flc runs in another one, a program does so itself
    own = threading.current_thread() is threading.main_thread()
    before = {s: signal.signal(s, handle) for s in (signal.SIGINT, signal.SIGTERM) if own}
    try:
        yield
    finally:
        STOP.signal = None
        for number, handler in before.items():
            signal.signal(number, handler)


def make_job(values: dict[str, Any], planned: Collection[str] = tuple(STAGES)) -> Job:
    """The job of a command that runs the `planned` stages, checked."""
    asked = recipe_from(values)
    recipe = completed(asked, elsewhere=bool(values.get("ranks")))
    if count := values.get("ranks"):
        if recipe.engine == "plain" and count > 1:
            raise UserError(f"--ranks {count}: --engine plain is one process; add --engine deepspeed")
        job = Job(recipe, values["out"], Console(), Ranks(world=count), needs=frozenset())
    else:
        check_device(recipe.device)
        ranks, needs = from_environment(recipe.engine, recipe.device), needed_of_model(planned)
        job = Job(recipe, values["out"], Console(quiet=not ranks.leader), ranks, values.get("store"), needs)
    if AUTO in (asked.device, asked.dtype):
        job.taken.append(f"device {recipe.device}, dtype {recipe.dtype}")
    if count:
        job.check_counted(planned)
    else:
        job.check(planned)
    if recipe.data and job.needs == EVERY:
        job.taken.append(f"--data: {job.listing.said}")
    if count or job.needs == EVERY:
        check_scheduler(job, planned)
    check_objectives(job, planned)
    for text in [
        *idle(job, values),
        *before(job, planned, values),
        *untrained(job, planned),
        *alone_in_parts(job, planned),
    ]:
        job.console.warn(text)
    return job


def needed_of_model(planned: Collection[str]) -> frozenset[Part]:
    """What these stages load of the model; those that train encode clips first, if that is not done."""
    return frozenset[Part]().union(*(STAGES[name].needs for name in planned))


def before(job: Job, planned: Collection[str], values: dict[str, Any]) -> list[str]:
    """Who says how many iterations come before the blocks are chosen is told where there are fewer."""
    said = any(item.partition("=")[0] == "pruner.after" for item in values.get("set_") or [])
    return said_before(job) if said and "score" in planned else []


def untrained(job: Job, planned: Collection[str]) -> list[str]:
    """Guidance asks for a velocity without text, which stage II may not have kept in order."""
    trains, r = job.algorithm("recovery").trains and "recover" in planned, job.recipe
    if not trains or r.recover.drop_text or r.recover.iterations == 0 or student_guidance(job) <= 1:
        return []
    text = "this student is sampled with guidance, and stage II never trains it without text"
    return [f"{text}: give --set recover.drop_text=0.1"]


def alone_in_parts(job: Job, planned: Collection[str]) -> list[str]:
    """A term that compares clips compares those that a rank takes at once."""
    said = []
    for name, kind in (("recover", "recovery"), ("distill", "distiller")):
        objective, stage = job.algorithm(kind), getattr(job.recipe, name)
        at_once = stage.batch // (job.ranks.world * stage.accumulate)
        if name in planned and objective.trains and at_once < objective.compares:
            text = f"--{kind} {getattr(job.recipe, kind).name} compares clips, and a rank takes {at_once} at once"
            said.append(f"{text}: a part of its loss is 0; give {name}.batch of {objective.compares} a rank or more")
    return said


def idle(job: Job, values: dict[str, Any]) -> list[str]:
    """What of this command's own flags changes nothing: lengths and teachers of a stage that trains nothing, and
    options that others make void."""
    flags = {f"--{k}": k for k in ALGORITHMS if values.get(k) is not None}
    flags |= {f"--set {item.partition('=')[0]}": item.partition(".")[0] for item in values.get("set_") or []}
    decided_by = {"recover": "recovery", "distill": "distiller", "teacher": "distiller"}
    still = {s: kind for s, kind in decided_by.items() if not job.algorithm(kind).trains}
    void = {section: getattr(job.recipe, section).unused() for section in STAGE_OPTIONS}
    # a plugin's options may be any pydantic model
    void |= {kind: getattr(job.algorithm(kind).options, "unused", tuple)() for kind in ALGORITHMS}
    said = []
    for flag, section in flags.items():
        name = flag.rpartition(".")[2]
        if section in still:
            kind = still[section]
            said.append(f"{flag} has no effect: --{kind} {getattr(job.recipe, kind).name} trains nothing")
        elif name in void.get(section, ()):
            said.append(f"{flag} has no effect beside the other options of {section}")
        elif name == "given_share" and job.adapter.needs_first_frame:
            said.append(f"{flag} has no effect: this model makes every clip from a first frame")
        elif values.get("pipeline") and name == "rows":
            said.append(f"{flag} has no effect: a pipeline alone is one row")
        elif values.get("pipeline") and name == "teacher_steps" and "steps" in job.adapter.notes:
            said.append(f"{flag} has no effect: this pipeline is made for {job.adapter.notes['steps']} steps")
    return said


def make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {error.strerror}") from error


def absolute(place: str) -> str:
    return str(Path(place).absolute())


@contextmanager
def begun(job: Job, resume: bool) -> Iterator[None]:
    """Refuse an --out in use, then write the lock file; nothing else works in the folder meanwhile. A command that
    fails before it has made anything leaves the options of the run as they were."""
    with ExitStack() as stack:
        if job.ranks.leader:
            check_out(job.out, resume)
            make_folder(job.out)
            stack.enter_context(held(job.out))
            stack.enter_context(kept_unless_made(job))
            # absolute, so that a run goes on, and its lock file repeats it, from another folder
            write_text(job.out / LOCK, lock_text(placed(job.recipe, absolute)))
            for text in job.taken:
                job.console.say(text)
        job.ranks.barrier()
        yield


@contextmanager
def kept_unless_made(job: Job) -> Iterator[None]:
    """The lock file of a run that goes on, as it was, if this ends in an error and no stage is another one than before,
    finished or under way."""
    lock = job.out / LOCK
    former = read_text(lock) if lock.exists() else None

    def marks() -> list[object]:
        places = [stage.place(job) for stage in PIPELINE]
        partial = [place.with_name(PARTIAL + place.name) for place in places]
        return [read_mark(p / DONE) for p in places] + [read_mark(p / FINGERPRINT) for p in partial]

    before = marks()
    try:
        yield
    except BaseException:
        if former is not None and marks() == before:
            write_text(lock, former)
        raise


def compress(values: dict[str, Any]) -> None:
    if not values["dry_run"]:
        check_out(values["out"], values["resume"])
    if values["resume"]:
        check_resumed(values["out"], LOCK)
    if values["store"]:
        check_store(values["store"])
    if values["ranks"] and not values["dry_run"]:
        raise UserError("--ranks counts for so many processes and runs nothing: add --dry-run, or start with torchrun")
    planned = stages_until(values["until"])
    if values["until"] and values["dry_run"]:
        raise UserError("--until has no effect on a --dry-run, which runs no stage: leave one of them out")
    if values["store"] and values["dry_run"]:
        raise UserError("--store has no effect on a --dry-run, which writes nothing: leave one of them out")
    job = make_job(values, [stage.name for stage in planned])
    if values["ranks"]:
        from flc.run.estimate import count

        return count(job)
    if values["dry_run"]:
        from flc.run.estimate import dry_run

        with signals(), ExitStack() as stack:  # interrupted, the scratch folder goes too
            # ranks on other machines see the place of --out, and not this one's own
            place = nearest_existing(job.out.parent) if job.ranks.world > 1 else None
            scratch = stack.enter_context(tempfile.TemporaryDirectory(dir=place)) if job.ranks.leader else ""
            dry_run(job, Path(job.ranks.shared(scratch)))
            job.ranks.barrier()
        return
    check_goes_on(job, planned)
    for name, field in changed(job, planned):
        job.console.warn(f"{job.out / name} was made with another {field}: it is made again, and what rests on it")
    with signals(), begun(job, values["resume"]):
        chain(job, planned)
        if values["until"]:
            return job.console.say(f"{values['until']} is done in {job.out}; --resume without --until goes on")
        if job.ranks.leader:
            print_table(job)
            job.console.say(f"student: {EXPORT.place(job)}   report: {job.out / 'report.html'}")
            check_complete(job)


def stages_until(last: str | None) -> Sequence[Stage]:
    """All stages, or those up to the one after which a run stops."""
    names = [stage.name for stage in PIPELINE[:-1]]
    if last is not None and last not in names:
        raise UserError(f"--until {last!r} is none of {', '.join(names)}")
    return until(last)


def chain(job: Job, planned: Sequence[Stage]) -> None:
    """Every stage in turn. Once there is a plan, those that are to come say whether they can work with it."""
    for number, stage in enumerate(planned):
        made = stage.run(job, places(job, stage))
        if stage is SCORE:
            for later in planned[number + 1 :]:
                later.check_plan(job, made)


def run_one(name: str, values: dict[str, Any]) -> None:
    """One stage in OUT; what it needs comes from OUT too, or from --plan and --weights."""
    stage, pipeline = STAGES[name], values.get("pipeline")
    if pipeline:
        if values.get("model"):
            raise UserError("--model has no effect with --pipeline, whose folder is the model: leave one of them out")
        pipeline = by_name(pipeline)
        check(pipeline, "--pipeline")
        values = values | {"model": pipeline, "pipeline": pipeline}
    begins = set(stage.reads) <= {"data"}  # the other stages go on in a folder by their nature
    fresh = begins or pipeline
    check_out(values["out"], values["resume"] or not fresh)
    if values["resume"] or (not fresh and values["out"].exists()):
        check_resumed(values["out"], LOCK)
    if pipeline:
        check_apart(values["out"], pipeline)
    given = {which: values[flag] for which, flag in stage.given.items() if values.get(flag)}
    if not fresh:
        check_there(stage, values["out"], given)
    job = make_job(values, [name])
    if pipeline and job.recipe.evaluate.lpips:
        raise UserError("evaluate.lpips compares a run's teacher with its student: one pipeline has no other row")
    if not fresh and (found := changed(job, ahead(stage))):
        made, field = found[0]
        raise UserError(f"{job.out / made} was made with another {field}: leave that out, or give another --out")
    for own, field in changed(job, [stage]):
        job.console.warn(f"{job.out / own} was made with another {field}: it is made again")
    inputs = {} if fresh else places(job, stage, given)
    if inputs:
        check_together(job, stage, inputs, given)
    check_goes_on(job, [stage])
    with signals(), begun(job, values["resume"] if begins else True):
        if "data" in stage.reads:
            inputs["data"] = PREPARE.run(job, {})
        stage.run(job, inputs)
        stage.say(job)


def check_apart(out: Path, pipeline: Path) -> None:
    """A finished folder is measured in an --out of its own: in another run's it would take the place of its lock file
    and measurements."""
    lock = out / LOCK
    if lock.exists() and read_yaml(lock).get("model") != absolute(str(pipeline)):
        raise UserError(f"--out {out} holds another run: measure --pipeline {pipeline} in a folder of its own")


def check_there(stage: Stage, out: Path, given: Mapping[str, Path]) -> None:
    """`UserError` for the first folder that a stage reads and that is missing; latents are made on the way."""
    at = Job(Recipe(), out, Console(quiet=True))
    for place, what, hint in stage.needed(at, places(at, stage, given)):
        if place != PREPARE.place(at):
            require(place, what, hint)


def check_together(job: Job, stage: Stage, inputs: Mapping[str, Path], given: Mapping[str, Path]) -> None:
    """That a stage can read what it starts from, and that this belongs together, before anything is written."""
    read = {name: place for name, place in inputs.items() if name != "data"}
    check_chain(job, stage, read, given)
    if "plan" in read:
        read_plan(job, read["plan"])
        stage.check_plan(job, read["plan"])
    stage.check_inputs(job, read)
