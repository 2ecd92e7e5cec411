"""Stage I: which blocks stay."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flc.models.folder import read_json
from flc.run.derived import iterations_before, sigmas_of
from flc.run.job import Job
from flc.run.plan import PLAN
from flc.run.scoring import make_plan
from flc.run.stage import Stage, engine_of, training


@dataclass(frozen=True)
class Score(Stage):
    """`plan.json` holds kept blocks, scores and what the pruner measured; `transformer/` the network that they were
    chosen of, where that was trained before. `trial`: of the model as it is, without that training."""

    trial: bool = False
    name = "score"
    reads = {"data": "prepare"}
    kind = "pruner"
    trains = True

    def made_with(self, job: Job) -> dict[str, Any]:
        r = job.recipe
        options = {"pruner": r.pruner.model_dump(), "keep": r.keep, "seed": r.seed, **r.score.model_dump()}
        options |= {"dtype": r.dtype, "negative_prompt": r.negative_prompt, "sigmas": sigmas_of(job)}
        options["given_share"] = r.share_scored
        before = iterations_before(job)
        if not before:
            return options
        options |= {"after": before, "recovery": r.recovery.model_dump(), "recover": training(r.recover)}
        return options | engine_of(job)

    def work(self, job: Job, inputs: Mapping[str, Path], folder: Path) -> dict[str, Any]:
        plan, facts = make_plan(job, inputs["data"], folder, self.trial)
        if job.ranks.leader:
            (folder / PLAN).write_text(json.dumps(plan, indent=1))
        return facts

    def say(self, job: Job) -> None:
        plan, stays = read_json(made := self.place(job) / PLAN), []  # the model itself may have been given up
        for stack, kept in plan["kept"].items():
            gone = [block for block in range(len(plan["weights"][stack])) if block not in kept]
            stays.append(f"{stack} {list(kept)} stay, {gone} go")
        job.console.say(f"{made}: {'; '.join(stays)} ({plan['share']:.0%} of their parameters)")


SCORE = Score()
