"""The last stages: export, evaluate, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from flc.api import View
from flc.data.source import write_video
from flc.errors import Incomplete, UserError
from flc.evaluate import lpips
from flc.evaluate.clips import Clips
from flc.evaluate.manifest import digest, shots
from flc.evaluate.metrics import AVERAGE
from flc.evaluate.sampling import Row, condition, generate, make_prompts, prompts_of
from flc.evaluate.suite import asked_for, described, document, score_row
from flc.evaluate.vbench import lacks
from flc.export.card import model_card
from flc.export.pipeline import write_pipeline
from flc.files import write_text
from flc.models.folder import EMBEDDED, EMBEDDED_NAME, NOTES, adapter_for, read_json
from flc.models.notes import read_student
from flc.models.view import blocks_of
from flc.recipe import Recipe, RowName, lock_text, placed
from flc.registry import registry
from flc.run import vbench
from flc.run.fingerprints import ClipsOf
from flc.run.folders import run_stage
from flc.run.job import Job
from flc.run.plan import read_plan
from flc.run.stages import STUDENT, clips, parked
from flc.run.table import table_columns, table_rows
from flc.run.weights import load_transformer
from flc.train.nets import RoleNet


def export(job: Job, scored: Path, distilled: Path) -> Path:
    """`pipeline/`: the stock diffusers folder."""
    out = job.out / "pipeline"

    def work(folder: Path) -> None:
        if not job.ranks.leader:
            return
        declared, plan = read_student(distilled / STUDENT), read_plan(job, scored)
        schedule = job.adapter.schedule(declared["steps"], declared["shift"], declared["sampler"])
        student = load_transformer(job, distilled)
        share = job.budget.share(plan["kept"], plan["channels"])
        ffn = plan["channels"] and {stack: len(blocks[0]) for stack, blocks in plan["channels"].items()}
        facts = {"kept": plan["kept"], "pruner": plan["pruner"], "share": share,
                 "ffn": ffn, "parameters": sum(p.numel() for p in student.parameters()), "size": job.size,
                 "fps": job.adapter.fps_of(job.model_folder), "dtype": job.recipe.dtype,
                 "base_model": public(job.recipe).model or EMBEDDED_NAME,
                 **job.adapter.declaration(),
                 "license": "apache-2.0" if job.recipe.model is None else "other"}  # fmt: skip
        write_pipeline(job.adapter, student, schedule, declared | facts, folder)

    inputs = {"model": job.model_folder, "plan": scored, "student": distilled}
    options = {
        "size": job.size,
        "dtype": job.recipe.dtype,
        "name": public(job.recipe).model,
    }
    run_stage(out, options, inputs, work, job.ranks)
    job.ranks.barrier()
    return out


@dataclass(frozen=True)
class Entry:
    """A row before its network is loaded: full-size ones do not fit side by side."""

    name: RowName | Literal["pipeline"]
    title: str
    steps: int
    guidance: float
    scheduler: Any
    load: Callable[[], RoleNet]
    needs: tuple[str, ...] = ()
    """Folders of earlier stages that its clips depend on."""

    @property
    def own(self) -> bool:
        """Whether it is a network of its own, beside which the model's has nothing to do."""
        return self.name in ("pruned", "recovered", "student")

    def row(self) -> Row:
        net = self.load()
        count = sum(p.numel() for p in net.module.parameters())
        for stack, kept in (net.default.kept or {}).items():
            gone = [block for i, block in enumerate(blocks_of(net.module, stack)) if i not in kept]
            count -= sum(p.numel() for block in gone for p in block.parameters())
        return Row(self.name, self.title, net, self.scheduler, self.steps, self.guidance, count)


def entries(job: Job, scored: Path, pruned: Path, recovered: Path, distilled: Path) -> list[Entry]:
    """The table: the teacher at many and at few steps, after each stage, and the student."""
    r, adapter = job.recipe, job.adapter
    declared, kept = read_student(distilled / STUDENT), read_plan(job, scored)["kept"]
    many, few, guidance = r.evaluate.teacher_steps, declared["steps"], job.guidance
    own = adapter.schedule(few, declared["shift"], declared["sampler"]).scheduler

    def of(folder: Path | None, view: View = View()) -> Callable[[], RoleNet]:
        def load() -> RoleNet:
            module = adapter.transformer if folder is None else load_transformer(job, folder)
            return RoleNet(adapter, module, module, view)

        return load

    def plain() -> Any:
        return adapter.teacher_scheduler()

    def entry(name: RowName, what: str, steps: int, scale: float, *rest: Any) -> Entry:
        return Entry(name, f"{what}, {steps} steps" + (", guided" if scale != 1 else ""), steps, scale, *rest)

    teacher, healed = (plain(), of(None)), of(recovered, View(kept))
    table = [
        entry("teacher-many", "teacher", many, guidance, *teacher),
        entry("teacher-few-guided", "teacher", few, guidance, *teacher),
        entry("teacher-few", "teacher", few, 1.0, *teacher),
        entry("pruned", "pruned only", many, guidance, plain(), of(pruned), ("pruned",)),
        entry("recovered", "recovered", many, guidance, plain(), healed, ("plan", "recovered")),
        entry("student", "student", few, declared["guidance"], own, of(distilled), ("student",)),
    ]
    return [row for row in table if row.name in job.rows]


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
    """`evaluate/`: clips of every row, scored by the suite; `metrics.json` beside the stages, too.

    VBench's suites fall back on the shapes suite where VBench measures nothing and the model makes drawn clips.
    """
    out, suite = job.out / "evaluate", job.recipe.evaluate.suite
    inputs = inputs | {"model": job.model_folder}
    clips = {"data": ClipsOf(Path(job.recipe.data), job.rows_of_table)} if job.recipe.data else {}
    reason = "" if suite == "shapes" else vbench.measure(job, table_of(), inputs)
    if job.ranks.leader:
        if reason and not draws(job):
            raise UserError(reason)
        if reason:
            job.console.warn(f"{reason}. Measured with the shapes suite instead")
        if reason or suite == "shapes":
            measure_shapes(job, table_of, inputs | clips)
        write_text(job.out / "metrics.json", (out / "metrics.json").read_text())
    job.ranks.barrier()
    return out


def check_complete(job: Job) -> None:
    """`Incomplete` where a row has no average because the suite could not measure all of it."""
    for row in read_json(job.out / "metrics.json")["rows"]:
        if why := lacks(row):
            raise Incomplete(f"{row['name']} has no average: {why}")


def draws(job: Job) -> bool:
    """Whether the model was trained on drawn clips only: the embedded one, or a student of it."""
    embedded = job.model_folder.resolve() == EMBEDDED.resolve() or job.adapter.notes.get("base_model") == EMBEDDED_NAME
    return embedded and not job.recipe.data


def measure_shapes(job: Job, table_of: Callable[[], list[Entry]], inputs: dict[str, Path | ClipsOf]) -> None:
    """Our metrics, on the manifest's prompts where the suite was asked for, else on captions of the data's clips."""
    r, o = job.recipe, job.recipe.evaluate
    options = {"guidance": job.guidance, "seed": r.seed, "size": job.size, "dtype": r.dtype}
    options |= o.model_dump(exclude={"manifest", "vbench_python", "vbench_data", "fps"})
    options |= {"negative_prompt": r.negative_prompt, "metrics": registry().names("metric"), "averaged": AVERAGE}
    asked = shots(job.asked, o.seeds, r.seed) if o.suite == "shapes" else []
    options |= {"asked": digest(job.asked) if asked else None, "begin": r.prepare.clips if r.data else 0}

    def work(folder: Path) -> None:
        if asked:
            prompts = prompts_of(asked, *job.size[1:])
        else:
            drawn = list(clips(job, -(-o.clips // o.seeds), r.seed + 7919, r.prepare.clips))
            prompts = make_prompts(drawn, o.seeds, job.given_share, r.seed)
        cond = condition(job.adapter, prompts, r.negative_prompt, job.size[0])
        reference, fps = drawn_reference(job, o.reference), job.adapter.fps_of(job.model_folder)
        results, compared = [], {}
        table = table_of()
        calls = sum(entry.steps for entry in table) * -(-len(prompts.seeds) // o.batch)
        with job.console.bar("evaluate", calls) as bar:
            for entry in table:
                with parked(job, entry.own):
                    row = entry.row()
                    made, seconds = generate(job.adapter, row, prompts, cond, job.latent_shape, o.batch, bar.advance)
                results.append(score_row(row, made, reference, seconds))
                if o.lpips and row.name in lpips.ROWS:
                    compared[row.name] = made.video
                place = folder / "videos" / row.name
                place.mkdir(parents=True, exist_ok=True)
                for index in shown(prompts.given, o.videos):
                    write_video(place / f"{index}.mp4", made.video[index], fps, 4 if job.size[1] < 128 else 1)
                del row  # its network goes before the next one comes
        more: dict[str, Any] = {"instead_of": o.suite} if o.suite != "shapes" else {}
        if compared:
            metric = lpips.load(o.lpips or "", job.adapter.device)
            more["pairs"] = [lpips.pair(metric, zip(*(compared[row] for row in lpips.ROWS), strict=True))]
        values = document("shapes", results, described(), asked_for(prompts), r.seed, **more)
        (folder / "metrics.json").write_text(json.dumps(values, indent=1))

    run_stage(job.out / "evaluate", options, inputs, work)


def shown(given: np.ndarray, count: int) -> list[int]:
    """Indices of the clips written as videos: half with a given first frame where there are any, all where there are
    no others."""
    with_image, without = np.flatnonzero(given)[::2], np.flatnonzero(~given)[::2]
    half = min(len(with_image), count // 2 if len(without) else count)
    return sorted([*with_image[:half].tolist(), *without[: count - half].tolist()])


def drawn_reference(job: Job, count: int) -> Clips:
    """Clips that the metrics compare with, from a seed of their own: drawn, or the user's."""
    r = job.recipe
    pairs = list(clips(job, count, r.seed + 104_729, r.prepare.clips + -(-r.evaluate.clips // r.evaluate.seeds)))
    videos = np.stack([v for v, _ in pairs])
    return Clips(videos, tuple(c for _, c in pairs), videos[:, 0], np.zeros(len(pairs), bool))


def public(recipe: Recipe) -> Recipe:
    """As a model card may show it: files and folders by name, not by where they lie on this machine."""
    return placed(recipe, lambda place: public_name(Path(place).resolve()))


def public_name(place: Path) -> str:
    """Its own, or the repository's whose snapshot it is in the hub's cache: that one's own is a commit's."""
    if place.parent.name == "snapshots":
        kind, *repository = place.parent.parent.name.split("--")
        if repository and kind in ("models", "datasets"):
            return "/".join(repository)
    return place.name


def report(job: Job) -> Path:
    """`report.html`, and the model card of `pipeline/`."""
    from flc.report.page import write_report

    measured, notes = job.out / "metrics.json", job.out / "pipeline" / NOTES
    metrics, declared = read_json(measured), read_json(notes)
    declared["pipeline"] = read_json(job.out / "pipeline" / "model_index.json").get("_class_name", "DiffusionPipeline")
    adapter = adapter_for(job.out / "pipeline", weights=False)
    declared |= {"guidance_argument": adapter.guidance_argument, "setup": list(adapter.setup)}
    declared |= {"needs_first_frame": adapter.needs_first_frame, "exact": list(adapter.exact)}
    try:
        declared["suite"] = metrics["suite"]
        declared["example"] = metrics["prompts"][0]["caption"]
        declared["call"] = adapter.call_settings(job.out / "pipeline", declared["guidance"], job.recipe.negative_prompt)
        card = model_card(declared, table_rows(metrics), table_columns(metrics), lock_text(public(job.recipe)))
    except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:  # a file that was edited
        text = f"{measured} or {notes} is not as `flc evaluate` and `flc export` write it ({error!r}): run them again"
        raise UserError(text) from error
    write_text(job.out / "pipeline" / "README.md", card)
    return write_report(job.out)
