"""What a stage is: a function from folders to a folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from flc.family import EVERY, Part
from flc.recipe import TrainStage
from flc.registry import Kind
from flc.run.fingerprints import ClipsOf
from flc.run.folders import fingerprint, is_done_anywhere, run_stage
from flc.run.job import Job

#: How a training is saved and shown, not what comes out of it.
QUIET = {"save_every", "log_every"}

#: What the inputs of stages are, in words.
WORDS = {"data": "the encoded clips", "plan": "the plan", "pruned": "the pruned network",
         "recovered": "the recovered network", "student": "the student", "pipeline": "the pipeline",
         "measured": "the measurements"}  # fmt: skip


class Stage:
    """A function from folders to a folder. Its name is its command, its section of the recipe and, where it does not
    say another one, its folder in OUT.

    Example, complete: a stage that leaves the plan's share of parameters in a file of its own.

        class Weigh(Stage):
            "Writes OUT/weigh."
            name, reads = "weigh", {"plan": "score"}

            def made_with(self, job):
                return {"dtype": job.recipe.dtype}

            def work(self, job, inputs, folder):
                if job.ranks.leader:
                    (folder / "share.txt").write_text(str(read_plan(job, inputs["plan"])["share"]))

    With its place in `PIPELINE` (`flc/run/stages/__init__.py`) it runs in `flc compress`, has the command `flc weigh`,
    is a choice of `--until`, is skipped while it is done, and is made again when its options or the plan change.
    """

    name: ClassVar[str]
    folder: ClassVar[str] = ""
    """In OUT; the name when empty."""
    reads: ClassVar[Mapping[str, str]] = {}
    """Input -> the stage whose folder it is."""
    given: ClassVar[Mapping[str, str]] = {}
    """Input -> the flag with which a user gives a folder of their own for it."""
    kind: ClassVar[Kind | None] = None
    """Of the algorithm that does its work."""
    trains: ClassVar[bool] = False
    needs: ClassVar[frozenset[Part]] = EVERY
    """What it asks of the model beside facts, which configs alone say."""
    rests_on: ClassVar[tuple[str, ...]] = ()
    """Further stages whose folders must go together with those that it reads."""
    compared: ClassVar[bool] = True
    """Whether a run that goes on with other options says so of it, and a command of a later stage refuses them."""
    shared: ClassVar[bool] = True
    """Whether runs share it by `--store`."""

    def place(self, job: Job) -> Path:
        return job.out / (self.folder or self.name)

    def inputs(self, job: Job) -> dict[str, Path | ClipsOf]:
        """What it reads that no stage has made."""
        return {"model": job.model_folder}

    def made_with(self, job: Job) -> dict[str, Any]:
        """The options that decide what comes out, by which it is known with its inputs: JSON values."""
        raise NotImplementedError

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> dict[str, Any] | None:
        """Fill the (temporary) `folder`, on every rank; facts for its done.json."""
        raise NotImplementedError

    def needed(self, job: Job, places: Mapping[str, Path]) -> list[tuple[Path, str, str]]:
        """What must be there before it runs alone: place, what that is, and where it comes from."""
        need = []
        for name, made_by in self.reads.items():
            flag = f", or --{self.given[name]}" if name in self.given else ""
            need.append((places[name], WORDS[name], f"flc {made_by}{flag}"))
        return need

    def check_plan(self, job: Job, scored: Path) -> None:
        """Refuse what it would refuse of this plan, before stages that come ahead of it train on that."""

    def check_inputs(self, job: Job, inputs: Mapping[str, Path]) -> None:
        """Refuse folders, the user's own or those that lie in OUT, that do not go together, before it runs alone."""

    def run(self, job: Job, inputs: Mapping[str, Path]) -> Path:
        """Its folder, made unless it is done. `inputs`: by `reads`."""
        final = self.place(job)
        store = job.store if self.shared else None
        read = {**self.inputs(job), **inputs}
        run_stage(final, self.made_with(job), read, lambda folder: self.work(job, inputs, folder), job.ranks, store)
        job.ranks.barrier()
        return final

    def lies_done(self, job: Job, inputs: Mapping[str, Path]) -> bool:
        """Whether its folder is there, made with this run's options and these inputs."""
        mark = fingerprint(self.made_with(job), {**self.inputs(job), **inputs})
        return is_done_anywhere(self.place(job), mark)

    def say(self, job: Job) -> None:
        """What a command of this stage alone ends with."""


def engine_of(job: Job) -> dict[str, Any]:
    """What decides a trained stage's rounding and the shape of its checkpoints."""
    r = job.recipe
    facts = {"engine": r.engine, "world": job.ranks.world, "dtype": r.dtype, "device": r.device.partition(":")[0]}
    return facts | ({"zero": job.zero} if r.engine == "deepspeed" else {})


def training(stage: TrainStage) -> dict[str, Any]:
    return stage.model_dump(exclude=QUIET)
