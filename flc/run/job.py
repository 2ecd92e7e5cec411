"""What the stages of one run share: the recipe, the loaded model, the output folder, the process group."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import torch

from flc.api import Budget
from flc.data.listing import Listing, read_listing
from flc.errors import UserError
from flc.evaluate.clips import LEAST_FRAMES
from flc.evaluate.lpips import SMALLEST
from flc.evaluate.manifest import Asked, check_given, read_manifest
from flc.evaluate.metrics import drawn_kind
from flc.evaluate.options import check_options
from flc.evaluate.suite import Broken, metrics
from flc.evaluate.vbench_layout import SEEDS, official_prompts
from flc.family import EVERY, Part
from flc.models.folder import EMBEDDED, adapter_for
from flc.models.prunable import Prunable
from flc.models.spread import Spread
from flc.recipe import ALGORITHMS, Recipe, RowName
from flc.registry import create
from flc.run.console import Console
from flc.train.launch import Ranks


@dataclass
class Job:
    recipe: Recipe
    out: Path
    console: Console
    ranks: Ranks = field(default_factory=Ranks)
    store: Path | None = None
    """Folder in which runs share finished stages."""
    needs: frozenset[Part] = EVERY
    """What the stages that are planned ask of the model; without any of it, it is known by its configs alone."""
    taken: list[str] = field(default_factory=list)
    """What was taken for what the user left open, to be said when the run begins."""

    @property
    def model_folder(self) -> Path:
        return Path(self.recipe.model) if self.recipe.model else EMBEDDED

    @cached_property
    def adapter(self) -> Any:
        """The model, of which what the stages need is loaded."""
        adapter = adapter_for(self.model_folder, weights=bool(self.needs))
        return adapter.load(self.model_folder, self.ranks.device(self.recipe.device), self.recipe.dtype, self.needs)

    def forget_model(self) -> None:
        """Read the model again when it is next asked for."""
        self.__dict__.pop("prunable", None)
        self.__dict__.pop("adapter", None)

    @contextmanager
    def parked(self, idle: bool) -> Iterator[None]:
        """While the model's own transformer has nothing to do it leaves the device to those that train."""
        if not idle:
            yield
            return
        self.adapter.transformer.to("cpu")
        try:
            yield
        finally:
            self.adapter.transformer.to(self.adapter.device)

    @cached_property
    def size(self) -> tuple[int, int, int]:
        """(frames, height, width) of the run."""
        r, default = self.recipe, self.adapter.size_of(self.model_folder)
        given = (r.frames, r.height, r.width)
        return tuple(g or d for g, d in zip(given, default, strict=True))  # type: ignore[return-value]

    @property
    def fps(self) -> int:
        return int(self.adapter.fps_of(self.model_folder))

    @cached_property
    def latent_shape(self) -> tuple[int, int, int, int]:
        return self.adapter.latent_shape(*self.size)

    @cached_property
    def asked(self) -> list[Asked]:
        """The prompts of the manifest, or of VBench; none where clips of the data are asked for."""
        o = self.recipe.evaluate
        if o.manifest:
            return read_manifest(Path(o.manifest))
        if o.suite == "shapes":
            return []
        return official_prompts(Path(o.vbench_data or ""), o.suite, *self.size[1:])

    @property
    def clips_of_a_row(self) -> int:
        """How many clips a row of the table is judged by."""
        o = self.recipe.evaluate
        return len(self.asked) * (o.seeds if o.suite == "shapes" else SEEDS) or o.clips

    @property
    def guidance(self) -> float:
        given = self.recipe.guidance
        return self.adapter.guidance_of(self.model_folder) if given is None else given

    @property
    def given_share(self) -> float:
        """Of the table's clips of the data, how many are made from a first frame."""
        if self.adapter.needs_first_frame:
            return 1.0
        return self.recipe.evaluate.given_share if self.adapter.image_to_video else 0.0

    @property
    def rows(self) -> tuple[RowName, ...]:
        """Of the table: those asked for, or all. Of a teacher without guidance by the text two are one."""
        every: tuple[RowName, ...] = get_args(RowName)
        wanted = every if self.guidance != 1 else tuple(row for row in every if row != "teacher-few-guided")
        return self.recipe.evaluate.rows or wanted

    @cached_property
    def prunable(self) -> Prunable:
        checkpointing, spread = self.recipe.recover.checkpointing, Spread(self.ranks.rank, self.ranks.world)
        return Prunable(self.adapter, self.adapter.transformer, checkpointing, spread)

    @property
    def budget(self) -> Budget:
        return Budget(self.recipe.keep, self.prunable.weights, self.prunable.ffn)

    @property
    def zero(self) -> int:
        return self.recipe.zero or 2

    def algorithm(self, kind: Any) -> Any:
        choice = getattr(self.recipe, kind)
        return create(kind, choice.name, choice.options)

    def trained_in(self, stages: Collection[str]) -> set[str]:
        """The stages of which there is training in these: a pruner may ask for some of stage II's before it scores."""
        return {*stages, *(["recover"] if "score" in stages and self.algorithm("pruner").after() else [])}

    def check_training(self, stages: Collection[str]) -> None:
        for name, kind in (("recover", "recovery"), ("distill", "distiller")):
            if name not in self.trained_in(stages) or not getattr(self.algorithm(kind), "trains", True):
                continue
            if self.recipe.dtype == "float16":
                raise UserError("--dtype float16 cannot train (gradients underflow): use bfloat16 or float32")
            stage = getattr(self.recipe, name)
            batch, parts = stage.batch, self.ranks.world * stage.accumulate
            if batch % parts:
                near = max(parts, batch - batch % parts)
                world = self.ranks.world
                of = f"{world} rank{'s' * (world > 1)}" + f", in {stage.accumulate} parts each" * (stage.accumulate > 1)
                raise UserError(f"{name}.batch={batch} does not divide over {of}: --set {name}.batch={near}")

    def check_apart(self) -> None:
        """What a run reads is known by its contents, which must not change while the run writes."""
        written = {"--out": self.out, "--store": self.store}
        for flag, folder in (("--model", self.recipe.model), ("--data", self.recipe.data)):
            for own, place in written.items():
                if folder and place and place.resolve().is_relative_to(Path(folder).resolve()):
                    text = f"{own} {place} lies in {flag} {folder}, which it would change"
                    raise UserError(f"{text}: give another folder")

    def check_metrics(self) -> None:
        """Those that the table needs, before the first stage; another one that is broken is said, and is n/a."""
        for name, metric in metrics().items():
            if isinstance(metric, Broken):
                self.console.warn(f"{name} will be n/a: {metric.summary}")

    @property
    def listing(self) -> Listing:
        """Of the user's clips."""
        return read_listing(Path(self.recipe.data or ""))

    @property
    def clips_trained(self) -> int:
        """How many clips are encoded: no more than the user has."""
        count = self.recipe.prepare.clips
        return min(count, len(self.listing.rows)) if self.recipe.data else count

    @property
    def rows_of_table(self) -> range:
        """Of the user's clips those that the shapes suite reads: its prompts', unless a manifest has them, and its
        reference."""
        o, begin = self.recipe.evaluate, self.recipe.prepare.clips
        if o.suite != "shapes":
            return range(begin, begin)
        prompts = -(-o.clips // o.seeds)
        return range(begin + (prompts if o.manifest else 0), begin + prompts + o.reference)

    def rows_read(self, stages: Collection[str]) -> list[int]:
        """Numbers of the user's clips that these stages read."""
        rows = [] if {"score", "recover", "distill"}.isdisjoint(stages) else [*range(self.clips_trained)]
        return [*rows, *self.rows_of_table] if "evaluate" in stages else rows

    def check_clips(self, listed: list[tuple[Path, str]]) -> None:
        """What a table of the user's clips cannot say."""
        trained, wanted = self.clips_trained, len(self.rows_of_table)
        if wanted and len(listed) < self.rows_of_table.stop:
            self.console.warn(
                f"--data has {len(listed)} clips, {trained} are trained on and the table asks for {wanted} more, so it "
                f"meets some again: fewer of prepare.clips, evaluate.clips or evaluate.reference hold them apart"
            )
        if self.recipe.evaluate.suite == "shapes" and not drawn_kind(caption for _, caption in listed):
            self.console.warn(
                "the shapes suite is made for drawn clips, one object on a plain background, and says little of "
                "others; caption accuracy will be n/a: --set evaluate.suite=vbench or vbench-i2v measures real ones"
            )

    def check_choices(self, stages: Collection[str]) -> None:
        """What the recipe alone says."""
        for kind in ALGORITHMS:
            self.algorithm(kind)
        if self.recipe.zero is not None and self.recipe.engine == "plain":
            raise UserError(f"--zero {self.recipe.zero} has no effect with --engine plain: add --engine deepspeed")
        if self.recipe.offload and self.recipe.engine == "plain":
            raise UserError("--offload has no effect with --engine plain: add --engine deepspeed --zero 3")
        if self.recipe.offload and self.zero != 3:
            # below, deepspeed 0.19.8 takes a skipped block's last gradient again, and leaves no place to clear it
            raise UserError(f"--offload goes with --zero 3, not with {self.zero}: give both, or neither")
        self.check_training(stages)

    def check_counted(self, stages: Collection[str]) -> None:
        """What can be refused of a run on another machine, from the model's configs alone."""
        self.check_choices(stages)
        _ = self.latent_shape

    def check(self, stages: Collection[str]) -> None:
        """Everything that can be refused before the first of `stages`; what needs the loaded model comes last. Stages
        that need a part of it neither make clips nor train."""
        from flc.run.clips import check_videos
        from flc.run.disk import check_disk
        from flc.run.shapes import check_memory

        self.check_choices(stages)
        self.check_apart()
        adapter_for(self.model_folder, weights=bool(self.needs))
        if "evaluate" in stages:
            self.check_metrics()
            check_options(self.recipe.evaluate, self.console.warn)
        listed = self.listing.rows if self.recipe.data and self.needs == EVERY else []
        check_disk(self, stages)
        if self.needs != EVERY:
            _ = self.adapter
            return
        _ = self.latent_shape
        if "evaluate" in stages and self.size[0] < LEAST_FRAMES:
            raise UserError(f"--frames {self.size[0]}: the metrics need {LEAST_FRAMES} frames or more")
        if "evaluate" in stages:
            check_memory(self)
        check_videos(self, stages)
        if listed and {"distill", "evaluate"} <= set(stages):
            self.check_clips(listed)
        if "distill" in stages and getattr(self.algorithm("distiller"), "trains", True):
            said = self.adapter.advice(self.algorithm("teacher"), self.recipe.teacher.options)
            if said:
                self.console.warn(said)
        if "evaluate" not in stages:
            return
        if self.recipe.evaluate.lpips and min(self.size[1:]) < SMALLEST:
            raise UserError(f"evaluate.lpips needs clips of {SMALLEST} pixels a side: --height and --width")
        check_given(self.asked, self.recipe.evaluate.suite, self.adapter.image_to_video, self.adapter.needs_first_frame)


def check_device(device: str) -> None:
    try:
        with warnings.catch_warnings(action="ignore"):  # of names that torch is going to drop
            kind, index = torch.device(device).type, torch.device(device).index
    except RuntimeError as error:
        raise UserError(f"--device {device!r} is not a torch device: cpu, cuda, cuda:1, mps, ...") from error
    if kind == "meta":
        raise UserError("--device meta computes nothing: use cpu, cuda, cuda:1, mps, ...")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {device}: torch sees no GPU on this machine; use --device cpu")
    if kind == "cuda" and (index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {device}: this machine has {torch.cuda.device_count()} GPUs, counted from 0")
    if kind not in ("cpu", "cuda"):
        try:
            with warnings.catch_warnings(action="ignore"):
                torch.empty(0, device=device)
        except (RuntimeError, AssertionError, NotImplementedError, AttributeError, ImportError) as error:
            raise UserError(f"--device {device}: torch sees none on this machine; use --device cpu") from error
