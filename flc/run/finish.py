"""The last stages: export, evaluate, report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flc.api import View
from flc.data.source import write_video
from flc.errors import UserError
from flc.evaluate.clips import Clips
from flc.evaluate.sampling import Row, condition, generate, make_prompts
from flc.evaluate.suite import document, score_row
from flc.export.card import model_card
from flc.export.pipeline import write_pipeline
from flc.models.folder import NOTES, read_json
from flc.recipe import lock_text
from flc.registry import registry
from flc.run.folders import run_stage
from flc.run.job import Job
from flc.run.stages import STUDENT, clips, load_transformer, read_plan
from flc.train.nets import RoleNet


def export(job: Job, scored: Path, distilled: Path) -> Path:
    """`pipeline/`: the stock diffusers folder."""
    out = job.out / "pipeline"

    def work(folder: Path) -> None:
        if not job.ranks.leader:
            return
        declared, plan = read_json(distilled / STUDENT), read_plan(scored)
        schedule = job.adapter.schedule(declared["steps"], declared["shift"], declared["sampler"])
        student = load_transformer(job, distilled)
        weights = job.budget.weights
        total = sum(map(sum, weights.values()))
        share = sum(weights[s][i] for s, blocks in plan["kept"].items() for i in blocks) / total
        facts = {"kept": plan["kept"], "pruner": plan["pruner"], "recovery": job.recipe.recovery.name, "share": share,
                 "size": job.size, "parameters": sum(p.numel() for p in student.parameters()),
                 "base_model": job.recipe.model or "flc tiny-wan (embedded)",
                 "license": "apache-2.0" if job.recipe.model is None else "other"}  # fmt: skip
        write_pipeline(job.adapter, student, schedule, declared | facts, folder)

    inputs = {"model": job.model_folder, "plan": scored, "student": distilled}
    options = {
        "size": job.size,
        "dtype": job.recipe.dtype,
        "recovery": job.recipe.recovery.name,
        "model": job.recipe.model,
    }
    run_stage(out, options, inputs, work, job.ranks.leader)
    job.ranks.barrier()
    return out


@dataclass(frozen=True)
class Entry:
    """A row before its network is loaded: full-size ones do not fit side by side."""

    name: str
    title: str
    steps: int
    guidance: float
    scheduler: Any
    load: Callable[[], RoleNet]
    parameters: int | None = None

    def row(self) -> Row:
        net = self.load()
        count = self.parameters or sum(p.numel() for p in net.module.parameters())
        return Row(self.name, self.title, net, self.scheduler, self.steps, self.guidance, count)


def entries(job: Job, scored: Path, pruned: Path, recovered: Path, distilled: Path) -> list[Entry]:
    """The table: the teacher at many and at few steps, after each stage, and the student."""
    r, adapter = job.recipe, job.adapter
    declared, kept = read_json(distilled / STUDENT), read_plan(scored)["kept"]
    many, few, guidance = r.evaluate.teacher_steps, declared["steps"], job.guidance
    own = adapter.schedule(few, declared["shift"], declared["sampler"]).scheduler

    def of(folder: Path | None, view: View = View()) -> Callable[[], RoleNet]:
        def load() -> RoleNet:
            module = adapter.transformer if folder is None else load_transformer(job, folder)
            return RoleNet(adapter, module, module, view)

        return load

    def plain() -> Any:
        return adapter.teacher_scheduler()

    weights = job.budget.weights
    gone = sum(w for s, ws in weights.items() for i, w in enumerate(ws) if i not in kept[s])
    small = sum(p.numel() for p in adapter.transformer.parameters()) - gone
    healed = of(recovered, View(kept))
    student = f"student, {few} steps" + (", guided" if declared["guidance"] != 1 else "")
    table = [
        Entry("teacher-many", f"teacher, {many} steps, guided", many, guidance, plain(), of(None)),
        Entry("teacher-few-guided", f"teacher, {few} steps, guided", few, guidance, plain(), of(None)),
        Entry("teacher-few", f"teacher, {few} steps", few, 1.0, plain(), of(None)),
        Entry("pruned", f"pruned only, {many} steps, guided", many, guidance, plain(), of(pruned)),
        Entry("recovered", f"recovered, {many} steps, guided", many, guidance, plain(), healed, small),
        Entry("student", student, few, declared["guidance"], own, of(distilled)),
    ]
    unknown = sorted(set(r.evaluate.rows) - {entry.name for entry in table})
    if unknown:
        raise UserError(f"evaluate.rows names {unknown[0]!r}; there are: {', '.join(e.name for e in table)}")
    return [entry for entry in table if not r.evaluate.rows or entry.name in r.evaluate.rows]


def evaluate(job: Job, scored: Path, pruned: Path, recovered: Path, distilled: Path) -> Path:
    """The rows of a run: videos of every row, and `metrics.json`."""
    inputs = {"plan": scored, "pruned": pruned, "recovered": recovered, "student": distilled}
    return measure(job, lambda: entries(job, scored, pruned, recovered, distilled), inputs)


def evaluate_pipeline(job: Job) -> Path:
    """One row: the job's own model with its folder's scheduler, at the steps its flc.json names."""
    adapter, steps = job.adapter, job.adapter.notes.get("steps", job.recipe.evaluate.teacher_steps)
    net = RoleNet(adapter, adapter.transformer, adapter.transformer, View())
    title = f"{job.model_folder.resolve().name}, {steps} steps"
    only = Entry("pipeline", title, steps, job.guidance, adapter.teacher_scheduler(), lambda: net)
    return measure(job, lambda: [only], {})


def measure(job: Job, table_of: Callable[[], list[Entry]], inputs: dict[str, Path]) -> Path:
    """`evaluate/`: clips of every row, scored; `metrics.json` beside the stages, too."""
    r, out, o = job.recipe, job.out / "evaluate", job.recipe.evaluate
    options = {"guidance": job.guidance, "seed": r.seed, "size": job.size, "dtype": r.dtype, **o.model_dump()}
    options |= {"negative_prompt": r.negative_prompt, "metrics": registry().names("metric")}

    def work(folder: Path) -> None:
        if not job.ranks.leader:
            return
        asked = list(clips(job, -(-o.clips // o.seeds), r.seed + 7919))
        prompts = make_prompts(asked, o.seeds, o.given_share if job.adapter.image_to_video else 0.0, r.seed)
        cond = condition(job.adapter, prompts, r.negative_prompt)
        reference = drawn_reference(job, o.reference)
        results = []
        table = table_of()
        calls = sum(entry.steps for entry in table) * -(-len(prompts.seeds) // o.batch)
        with job.console.bar("evaluate", calls) as bar:
            for entry in table:
                row = entry.row()
                made, seconds = generate(job.adapter, row, prompts, cond, job.latent_shape, o.batch, bar.advance)
                results.append(score_row(row, made, reference, seconds))
                place = folder / "videos" / row.name
                place.mkdir(parents=True, exist_ok=True)
                for index in shown(prompts.given, o.videos):
                    write_video(place / f"{index}.mp4", made.video[index], scale=4 if job.size[1] < 128 else 1)
        (folder / "metrics.json").write_text(json.dumps(document(results, prompts, r.seed), indent=1))

    inputs = inputs | {"model": job.model_folder} | ({"data": Path(r.data)} if r.data else {})
    run_stage(out, options, inputs, work, job.ranks.leader)
    if job.ranks.leader:
        shutil.copy(out / "metrics.json", job.out / "metrics.json")
    job.ranks.barrier()
    return out


def shown(given: np.ndarray, count: int) -> list[int]:
    """Indices of the clips written as videos: half with a given first frame where there are any."""
    with_image, without = np.flatnonzero(given)[::2], np.flatnonzero(~given)[::2]
    half = min(len(with_image), count // 2)
    return sorted([*with_image[:half].tolist(), *without[: count - half].tolist()])


def drawn_reference(job: Job, count: int) -> Clips:
    """Clips that the metrics compare with, from a seed of their own: drawn, or the user's."""
    pairs = list(clips(job, count, job.recipe.seed + 104_729))
    videos = np.stack([v for v, _ in pairs])
    return Clips(videos, tuple(c for _, c in pairs), videos[:, 0], np.zeros(len(pairs), bool))


COLUMNS = ("steps", "guidance", "M parameters", "s/clip", "average", "distribution", "diversity")


def table_rows(metrics: dict[str, Any]) -> list[dict[str, str]]:
    """metrics.json as the table of the terminal and the model card."""
    out = []
    for row in metrics["rows"]:
        cells = {"": row["title"], "steps": str(row["steps"]), "guidance": f"{row['guidance']:g}",
                 "M parameters": f"{row['parameters'] / 1e6:.2f}", "s/clip": f"{row['seconds']:.3f}",
                 "average": f"{row['average']:.3f}"}  # fmt: skip
        cells |= {name: "n/a" if value is None else f"{value:.3f}" for name, value in row["scores"].items()}
        out.append(cells)
    return out


def report(job: Job) -> Path:
    """`report.html`, and the model card of `pipeline/`."""
    from flc.report.page import write_report

    metrics, declared = read_json(job.out / "metrics.json"), read_json(job.out / "pipeline" / NOTES)
    declared["example"] = metrics["prompts"][0]["caption"]
    names = [m["name"] for m in metrics["metrics"]]
    columns = ["", *COLUMNS[:5], *[n for n in names if n not in COLUMNS], "distribution", "diversity"]
    card = model_card(declared, table_rows(metrics), columns, lock_text(job.recipe))
    (job.out / "pipeline" / "README.md").write_text(card)
    return write_report(job.out)


__all__ = ["evaluate", "evaluate_pipeline", "export", "report", "table_rows"]
