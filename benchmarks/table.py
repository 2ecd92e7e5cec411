"""What the tables share: from cells to rows over seeds, with the paper's numbers beside ours, and the command."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from benchmarks import paper
from benchmarks.cells import Cell, Scale
from benchmarks.common import RESULTS, spread, worth_writing, write
from benchmarks.records import Record
from benchmarks.render import markdown, picture
from benchmarks.runner import Runs, summary
from benchmarks.timing import interleaved
from flc.errors import UserError
from flc.evaluate.intervals import Interval, difference, may_rank, seed_noise
from flc.recipe import Recipe, merge, resolve

#: Of a recovery whose network is sampled with guidance: the text is dropped as often as the teacher's own training did.
GUIDED = {"drop_text": 0.1}
#: All blocks, so that no pruner need look at any.
WHOLE = {"keep": 1.0, "pruner": "uniform", "recovery": "none"}
TEACHER = Cell("teacher", {**WHOLE, "distiller": "euler", "steps": 50})
#: Averages further apart are of rows whose noise is not alike: it is not pooled over them.
ALIKE = 0.05


@dataclass(frozen=True)
class Table:
    """A comparison: rows of cells. `paper` maps a row's label to its row in the first of the paper's `papers`;
    averages stand also as differences to the row `reference` of the same seed, which shares prompts and noise.
    All of `papers` are printed under ours, with `notes`: what a reader must know to compare. `removal`: of which plan a
    row is counts, so its error before any training is shown. `module` has the command, and `variant` tells the results
    apart, where they are not called after the number alone. `first`: rows that every table begins with."""

    number: int
    title: str
    rows: tuple[Cell, ...]
    paper: dict[str, str]
    reference: str = TEACHER.label
    papers: tuple[str, ...] = ()
    notes: str = ""
    removal: bool = False
    module: str = ""
    variant: str = ""
    first: tuple[Cell, ...] = (TEACHER,)

    @property
    def name(self) -> str:
        return f"table{self.number}{self.variant}"

    @property
    def command(self) -> str:
        return f"python -m benchmarks.{self.module or self.name}"

    @property
    def cells(self) -> list[Cell]:
        return [*self.first, *self.rows]

    def only(self, labels: Sequence[str]) -> Table:
        """These rows and the reference; `UserError` for one that is none."""
        cells = {cell.label: cell for cell in self.cells}
        if unknown := [label for label in labels if label not in cells]:
            raise UserError(f"--rows {unknown[0]!r} is no row of {self.name}: {', '.join(map(repr, cells))}")
        rows = tuple(cells[label] for label in dict.fromkeys((self.reference, *labels)))
        paper = {label: key for label, key in self.paper.items() if label in {cell.label for cell in rows}}
        return replace(self, rows=rows, paper=paper, variant=f"{self.variant}_some", first=())


def measure(table: Table, runs: Runs, seeds: list[int]) -> dict[str, Any]:
    """Run what is missing, then every row's mean and spread over seeds; times of one student a row, of the first seed
    that has one, in turn."""
    cells = table.cells
    runs.run(cells, seeds)
    found = {c.label: [runs.row(c, s) for s in seeds] for c in cells}
    results = {label: summary(rows) for label, rows in found.items()}
    papers = {name: paper.printed(name) for name in table.papers}
    first = next(iter(papers.values()), {"columns": [], "rows": {}})
    compared = against(table, runs, seeds, found)
    for cell in cells:
        label, rows = cell.label, found[cell.label]
        if label in compared:
            results[label]["ahead"] = compared[label]
        if good := [row for row in rows if "average" in row]:
            results[label]["block_evaluations"] = spread([sum(row["block_evaluations"].values()) for row in good])
            results[label]["iterations"] = iterations(cell.at(runs.scale, seeds[0]), good[0]["seconds"])
            if table.removal:
                results[label]["removal"] = spread([row["removal"]["pruned"] for row in good])
        if over := paper.averages(rows, paper.dimensions(first)):
            results[label]["as_paper"] = spread(over)
    made = {c.label: [record for s in seeds if (record := runs.record(c, s))] for c in cells}
    add_times(results, {label: records[0] for label, records in made.items() if records}, runs.scale)
    theirs = {label: dict(zip(first["columns"], first["rows"][key], strict=True)) for label, key in table.paper.items()}
    about = {"title": table.title, "scale": runs.scale.name, "seeds": seeds, "reference": table.reference}
    about |= {"runs_of": runs.commits(cells, seeds)}
    some = next((row for rows in found.values() for row in rows if "average" in row), {"clips": 0, "averaged": ()})
    about |= {"clips": some["clips"], "averaged": list(some["averaged"])}
    about |= {"notes": table.notes, "paper_tables": papers}
    return about | {"rows": results, "paper": theirs}


def iterations(recipe: Recipe, trained: Collection[str]) -> str:
    """Of stages II and III, of those that train; some of stage II's come before blocks are scored."""
    stages = {"recover": "score" in trained or "recover" in trained, "distill": "distill" in trained}
    return " + ".join(str(getattr(recipe, name).iterations) for name, trains in stages.items() if trains)


def against(table: Table, runs: Runs, seeds: list[int], found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Each row's difference to the reference with its interval, over the seeds that both have; where clips are not
    kept, as of another suite, with its spread over seeds."""
    clips = {c.label: {s: own for s in seeds if (own := runs.clips(c, s)) is not None} for c in table.cells}
    reference, some = clips[table.reference], alike(clips, table.reference, seeds)
    noise = seed_noise([[clips[label][s] for s in seeds] for label in some]) if min(len(some), len(seeds)) > 1 else None
    out: dict[str, Any] = {}
    for label in found.keys() - {table.reference}:
        if both := [s for s in seeds if s in clips[label] and s in reference]:
            pair = ([clips[name][s] for s in both] for name in (label, table.reference))
            out[label] = interval_of(difference(*pair, noise if label in some else None))
        elif apart := differences(found[label], found[table.reference]):
            out[label] = spread(apart)
    return out


def alike(clips: Mapping[str, Mapping[int, np.ndarray]], reference: str, seeds: Sequence[int]) -> list[str]:
    """The reference and the rows that are near it, of which every seed was run: their noise is taken for one."""
    whole = {label: mean(own[s].mean() for s in seeds) for label, own in clips.items() if own.keys() >= set(seeds)}
    return [label for label, average in whole.items() if reference in whole and abs(average - whole[reference]) < ALIKE]


def interval_of(found: Interval) -> dict[str, Any]:
    """As results hold it; `half` is None where one seed says nothing of others. `ranked`: one of the two is better."""
    half = found.half if math.isfinite(found.half) else None
    about = {"seeds": found.seeds, "clips": found.clips, "level": found.level, "ranked": may_rank(found)}
    return {"mean": found.difference, "half": half} | about


def differences(rows: list[dict[str, Any]], others: list[dict[str, Any]]) -> list[float]:
    """Of averages, seed by seed, where both were run."""
    pairs = [pair for pair in zip(rows, others, strict=True) if all("average" in row for row in pair)]
    return [row["average"] - other["average"] for row, other in pairs]


def add_times(results: dict[str, Any], finished: dict[str, Record], scale: Scale) -> None:
    """Seconds a clip and, round by round, the ratio to the teacher's."""
    where = {name: scale.base()[name] for name in ("model", "device", "dtype") if name in scale.base()}
    timed = interleaved(finished, **where, **scale.read().get("timing", {}))
    for label, seconds in timed.items():
        results[label]["seconds"] = spread(seconds)
        if "teacher" in timed:
            ratios = [theirs / ours for theirs, ours in zip(timed["teacher"], seconds, strict=True)]
            results[label]["speed_up"] = spread(ratios)


def arguments(description: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(description or "").split("\n")[0])
    add_arguments(parser)
    return parser.parse_args()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--scale", default="tiny", help="benchmarks/scales/NAME.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="folder of runs; FLC_CACHE, or the user's cache, when absent")
    parser.add_argument("--jobs", type=int, help="runs at a time, one core each; the scale's own when absent")
    parser.add_argument("--list", action="store_true", help="print the runs that are missing, and stop")
    parser.add_argument("--dry-run", action="store_true", help="plan, memory and time of each cell, and stop")
    parser.add_argument("--model", help="folder of the scale's model")
    parser.add_argument("--data", help="folder of clips")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="over the scale's recipe")
    parser.add_argument("--rows", nargs="+", metavar="LABEL", help="only these, and the reference: NAME_some")
    parser.add_argument("--launch", default="", help="how flc is started; the scale's own when absent")


def scale_of(args: argparse.Namespace) -> Scale:
    over: dict[str, Any] = {name: getattr(args, name) for name in ("model", "data") if getattr(args, name)}
    for item in args.set:
        key, _, value = item.partition("=")
        section, _, name = key.rpartition(".")
        over = merge(over, {section: {name: yaml.safe_load(value)}} if section else {name: yaml.safe_load(value)})
    return Scale(args.scale, over, args.launch)


def runs_of(args: argparse.Namespace) -> Runs:
    """Ends the command with one line where no cell can be: the scale's recipe is wrong, or what is laid over it."""
    scale = scale_of(args)
    try:
        resolve(scale.base(), {}, {})
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    return Runs(args.runs, scale, args.jobs or scale.read().get("jobs", 2))


def plan(runs: Runs, cells: list[Cell], args: argparse.Namespace) -> int:
    """`--list`: which runs are missing. `--dry-run`: what each cell would need; 1 when one cannot be."""
    if args.list:
        print("\n".join(f"{cell.label}, seed {seed}" for cell, seed in runs.missing(cells, args.seeds)))
        return 0
    said = runs.dry(cells, args.seeds[0])
    print("\n".join(f"## {label}\n{text}" for label, text in said.items()))
    return int(any(text.startswith("failed") for text in said.values()))


def main(made: Callable[[str], Table], description: str | None) -> int:
    """The command of a module that makes a table for a scale. 1 when a cell failed (the table says why)."""
    args = arguments(description)
    runs = runs_of(args)
    try:
        table = made(args.scale).only(args.rows) if args.rows else made(args.scale)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if args.list or args.dry_run:
        return plan(runs, table.cells, args)
    values = measure(table, runs, args.seeds)
    name = table.name if args.scale == "tiny" else f"{table.name}_{args.scale}"
    text = markdown(values)
    if worth_writing(values, name):
        write(name, f"{table.command} --scale {args.scale}", values)
        (RESULTS / f"{name}.md").write_text(text)
        picture(values, RESULTS / f"{name}.png")
    print(text)
    return int(any("error" in row for row in values["rows"].values()))
