"""`report.html`: what a run did and what came of it, in one file that needs nothing else.

Clips are embedded as data URIs, charts are inline SVG, and the page's own content security policy forbids
every request. A folder with parts missing still makes a page; each section says what it lacks.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

from flc.files import write_text
from flc.report import result
from flc.report.axis import Around, Axis, label
from flc.report.load import STAGES, Run, number, read_run
from flc.report.markup import Html, el, join
from flc.report.svg import Bars, bar_chart, line_chart, score_axis

REPORT = "report.html"
POLICY = "default-src 'none'; style-src 'unsafe-inline'; media-src data:; img-src data:"
COMMAND = "flc compress --recipe recipe.lock.yaml --out NEW"


def write_report(out: Path) -> Path:
    """The page of a finished run's folder; `UserError` when the run has not been evaluated."""
    run = read_run(out)
    sections: dict[str, Callable[[Run], Html]] = {
        "What was done": what_was_done,
        "The result": result.section,
        "Clips side by side": clips,
        "Which blocks matter": blocks,
        "Training": training,
        "Repeat this run": repeat,
    }
    body = [el("section", el("h2", heading), make(run)) for heading, make in sections.items()]
    style = Html((files("flc.report") / "style.css").read_text())
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("link", rel="icon", href="data:,"),
        el("title", f"flc: {out.resolve().name}"),
        el("style", style),
    )
    top = join(el("h1", "Compression report"), el("p", out.resolve().name, cls="soft"))
    page = el("html", head, el("body", el("main", top, *body)), lang="en")
    write_text(out / REPORT, f"<!doctype html>\n{page}\n")
    return out / REPORT


def missing(text: str) -> Html:
    return el("p", text, cls="missing")


def what_was_done(run: Run) -> Html:
    """One line per stage, from the recipe and the plan."""
    r, plan, m = run.recipe, run.plan, run.metrics

    def chosen(kind: str) -> str:
        choice = r.get(kind)
        return str(choice.get("name", "?")) if isinstance(choice, dict) else str(choice or "?")

    def length(stage: str) -> str:
        options = r.get(stage)
        count = options.get("iterations") if isinstance(options, dict) else None
        updates = run.updates.get(stage)
        own = "" if updates is None or updates == count else f" ({updates:.0f} updates of the student)"
        return "" if count is None else f", {count} iterations{own}"

    def settings(kind: str) -> str:
        choice = r.get(kind)
        options = {k: v for k, v in choice.items() if k != "name"} if isinstance(choice, dict) else {}
        return f" ({', '.join(f'{k} {v}' for k, v in options.items())})" if options else ""

    lines = []
    if plan is not None:
        total = sum(len(s) for s in stacks(plan).values())
        kept = sum(len(b) for b in plan["kept"].values())
        share = number(plan.get("share"))
        part = "" if share is None else f", {100 * share:.0f} % of their parameters"
        channels = plan.get("channels") or {}
        part += "".join(f", {len(blocks[0])} channels in every feed-forward layer" for blocks in channels.values())
        lines.append(("I, score", f"{plan.get('pruner', '?')} kept {kept} of {total} blocks{part}"))
    if r:
        teacher = f", taught by {chosen('teacher')}{settings('teacher')}" if "teacher" in r else ""
        lines.append(("II, recover", f"{chosen('recovery')}{length('recover')}"))
        steps = f" to {r['steps']} steps" if "steps" in r else ""
        lines.append(("III, distil", f"{chosen('distiller')}{steps}{teacher}{length('distill')}"))
    lines.append(("evaluate", f"{m.get('clips', '?')} clips for each of {len(m['rows'])} rows{result.on_hardware(m)}"))
    pairs = [part for name, text in lines for part in (el("dt", name), el("dd", text))]
    sources = f"Model: {r.get('model') or 'the embedded tiny-wan'}. Clips: {r.get('data') or 'drawn by rule'}."
    if not r:
        sources = "recipe.lock.yaml is missing or is not YAML, so the recipe is not told here."
    return join(el("p", sources) if r else missing(sources), el("dl", *pairs))


def clips(run: Run) -> Html:
    """A line per prompt, a column per row of the table that has videos; the same seed all along a line."""
    rows = [r for r in run.metrics["rows"] if isinstance(r, dict) and r.get("name") in run.videos]
    if not rows:
        return missing("No clips under evaluate/videos: `flc evaluate` writes them (option evaluate.videos).")
    teacher, student = result.teacher_and_student(rows)
    rows.sort(key=lambda r: (r is student) - (r is teacher))
    prompts = run.metrics.get("prompts") or []
    lines = []
    for index in sorted({i for row in rows for i in run.videos[row["name"]]}):
        prompt = prompts[index] if index < len(prompts) else {}
        caption = str(prompt.get("caption", f"clip {index}"))
        seed = f"seed {prompt['seed']}, " if "seed" in prompt else ""
        source = "first frame given" if prompt.get("given") else "from text only"
        cells = [el("th", caption, el("small", f"{seed}{source}" if prompt else "not in metrics.json"), scope="row")]
        cells += [video(run.videos[r["name"]].get(index), f"{caption}: {result.title(r)}") for r in rows]
        lines.append(el("tr", *cells))
    head = el("thead", el("tr", el("th"), *(el("th", result.title(r), scope="col") for r in rows)))
    note = "Every clip of a line starts from the same caption, noise and (where given) first frame. Clips loop."
    table = el("table", head, el("tbody", *lines), cls="clips")
    return join(el("p", note, cls="soft"), el("div", table, cls="scroll"))


def video(path: Path | None, told: str) -> Html:
    if path is None:
        return el("td", "–", cls="none")
    data = f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return el(
        "td",
        el("video", src=data, controls=True, autoplay=True, loop=True, muted=True, playsinline=True, aria_label=told),
    )


def stacks(plan: dict[str, Any]) -> dict[str, list[Any]]:
    """Something of the length of each stack: its scores, or else its weights."""
    scores, weights = plan.get("scores") or {}, plan.get("weights") or {}
    return {s: scores.get(s) or weights.get(s) or list(plan["kept"][s]) for s in plan["kept"]}


def own_details(plan: dict[str, Any]) -> dict[str, Any]:
    details = plan.get("details")
    return details if isinstance(details, dict) else {}


def stack_bars(plan: dict[str, Any]) -> list[Bars]:
    """The plan's scores as charts. `details` is a pruner's own: whatever is not understood is left out."""
    details = own_details(plan)
    baseline, given = number(details.get("baseline")), details.get("interval")
    out = []
    for stack, scores in (plan.get("scores") or {}).items():
        pairs = given.get(stack) if isinstance(given, dict) and baseline is not None else None
        pairs = pairs if isinstance(pairs, list) and len(pairs) == len(scores) else [None] * len(scores)
        intervals = [shifted(pair, baseline) for pair in pairs]
        kept = frozenset(plan["kept"].get(stack, ()))
        out.append(Bars(stack, [number(s) for s in scores], intervals, kept, baseline))
    return out


def shifted(pair: Any, baseline: float | None) -> tuple[float, float] | None:
    """An interval of (score - baseline) as one of the score."""
    ends = [number(end) for end in pair] if isinstance(pair, list) and len(pair) == 2 else []
    if baseline is None or len(ends) != 2 or ends[0] is None or ends[1] is None:
        return None
    return baseline + ends[0], baseline + ends[1]


def blocks(run: Run) -> Html:
    if run.plan is None:
        return missing("No plan in score/plan.json: `flc score` writes it.")
    bars = stack_bars(run.plan)
    axis = score_axis(bars)
    if axis is None:
        return missing(f"The plan of pruner {run.plan.get('pruner', '?')} has no scores to show.")
    key = el("p", el("span", cls="key kept"), "kept  ", el("span", cls="key removed"), "removed", cls="soft")
    charts = [el("div", bar_chart(b, axis), cls="scroll") for b in bars]
    return join(told(run.plan, bars, axis), key, *charts, *(score_table(b, run.plan) for b in bars))


def told(plan: dict[str, Any], bars: list[Bars], axis: Axis | Around) -> Html:
    details = own_details(plan)
    parts = [f"Importance of each block as pruner {plan.get('pruner', '?')} scored it; higher matters more."]
    if bars[0].baseline is not None:
        parts.append("Bars begin at the baseline, the same measure with no block skipped.")
    if any(pair for b in bars for pair in b.intervals):
        parts.append("Whiskers are 95 % confidence intervals of the difference from it.")
    removal = plan.get("removal") or {}
    whole, pruned, clips = (number(removal.get(name)) for name in ("whole", "pruned", "clips"))
    if whole is not None and pruned is not None and clips is not None:
        parts.append(
            f"With all that goes gone at once the error of x0 (Eq 4) is {label(pruned)}, against {label(whole)} for the"
            f" whole network, over {clips:.0f} clips."
        )
    facts = [f"{name} {details[name]}" for name in ("samples", "ranking") if isinstance(details.get(name), int | str)]
    if (count := number(plan.get("block_evaluations"))) is not None:
        facts.append(f"{count:,.0f} block evaluations".replace(",", " "))
    if isinstance(axis, Around):
        parts.append("The scale is logarithmic in the distance from the baseline, linear close to it.")
    elif axis.log:
        parts.append("The scale is logarithmic.")
    return join(el("p", " ".join(parts)), el("p", "; ".join(facts), cls="soft") if facts else None)


def score_table(bars: Bars, plan: dict[str, Any]) -> Html:
    head = el("tr", *(el("th", t, scope="col") for t in ("block", "score", "95 % interval", "parameters", "")))
    weights = (plan.get("weights") or {}).get(bars.name) or []
    lines = []
    for i, (score, interval) in enumerate(zip(bars.scores, bars.intervals, strict=True)):
        between = f"{interval[0]:.5g} to {interval[1]:.5g}" if interval else "n/a"
        size = f"{weights[i]:,}".replace(",", " ") if i < len(weights) else "n/a"
        cells = [str(i), "n/a" if score is None else f"{score:.5g}", between, size]
        lines.append(el("tr", *(el("td", c) for c in cells), el("td", "kept" if i in bars.kept else "removed")))
    table = el("div", el("table", el("thead", head), el("tbody", *lines)), cls="scroll")
    return el("details", el("summary", f"All scores of {bars.name}"), table)


def training(run: Run) -> Html:
    return join(*(panel(stage, run) for stage in STAGES))


def panel(stage: str, run: Run) -> Html:
    """Small charts of every logged key, in the order of the log, over one common range of steps."""
    heading, curves = el("h3", f"Stage {STAGES[stage]}"), run.curves[stage]
    if not curves:
        why = "nothing was trained in this stage, or its log is gone" if curves is None else "it holds no values"
        return join(heading, missing(f"No curves from {stage}/log.jsonl: {why}."))
    last = max(x for curve in curves.values() for x, _ in curve)
    charts = [line_chart(key, curve, last) for key, curve in curves.items()]
    note = el("p", "Thin: as logged. Thick: running mean. Every chart has a scale of its own.", cls="soft")
    return join(heading, note, el("div", *charts, cls="panels"))


def repeat(run: Run) -> Html:
    command = el("pre", el("code", COMMAND))
    if run.lock is None:
        return join(command, missing("recipe.lock.yaml is missing: `flc compress` writes it when a run begins."))
    versions = run.metrics.get("versions") or {}
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    seed = f"Seed {run.metrics['seed']}. " if "seed" in run.metrics else ""
    recipe = el("details", el("summary", "recipe.lock.yaml"), el("pre", el("code", run.lock)))
    return join(command, el("p", f"{seed}{listed and 'Versions: ' + listed + '.'}", cls="soft"), recipe)
