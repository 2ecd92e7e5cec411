"""The result: what the student costs and keeps, and the table of all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flc.report.load import Run, number
from flc.report.markup import Html, el, join

GUARDS = ("distribution", "diversity")
"""Stand beside every average of our metrics: a student that collapsed onto few clips can have a good average."""

Row = dict[str, Any]


def teacher_and_student(rows: list[Row]) -> tuple[Row | None, Row | None]:
    """The teacher at its many steps (the first row named so), and the student; None where there is no such row."""
    teacher = next((r for r in rows if str(r.get("name", "")).startswith("teacher")), None)
    student = next((r for r in reversed(rows) if str(r.get("name", "")).startswith("student")), None)
    return teacher, student


def score(row: Row, name: str) -> float | None:
    return number((row.get("scores") or {}).get(name))


def decimals(value: float | None, digits: int = 3) -> str:
    return "n/a" if value is None else f"{value:.{digits}f}"


def ratio(top: float | None, bottom: float | None) -> float | None:
    return None if top is None or not bottom else top / bottom


def section(run: Run) -> Html:
    rows = [r for r in run.metrics["rows"] if isinstance(r, dict)]
    if not rows:
        return el("p", "metrics.json holds no rows: run `flc evaluate` again.", cls="missing")
    apart = from_text(rows, run.metrics)
    return join(headline(rows, guards(run.metrics)), table(rows, columns(run.metrics)), legend(run.metrics), apart)


def guards(metrics: dict[str, Any]) -> tuple[str, ...]:
    """VBench's suites have none."""
    return GUARDS if metrics.get("suite", "shapes") == "shapes" else ()


def headline(rows: list[Row], beside: tuple[str, ...] = GUARDS) -> Html:
    teacher, student = teacher_and_student(rows)
    if teacher is None or student is None:
        absent = "teacher" if teacher is None else "student"
        return el("p", f"metrics.json has no row of the {absent}: nothing to compare, see the table.", cls="missing")

    def pair(name: str) -> str:
        return f"{name} {decimals(score(student, name))} (teacher {decimals(score(teacher, name))})"

    seconds = number(student.get("seconds")), number(teacher.get("seconds"))
    size = number(student.get("parameters")), number(teacher.get("parameters"))
    faster, share = ratio(seconds[1], seconds[0]), ratio(*size)
    first = el("p", el("strong", title(student)), " against ", el("strong", title(teacher)))
    return join(
        first,
        el(
            "div",
            tile(
                "quality average",
                decimals(number(student.get("average"))),
                f"teacher {decimals(number(teacher.get('average')))}",
                *map(pair, beside),
            ),
            tile(
                "speed-up of sampling",
                "n/a" if faster is None else f"{faster:.1f}×",
                f"{decimals(seconds[0])} s a clip, teacher {decimals(seconds[1])} s",
            ),
            tile(
                "share of the parameters",
                "n/a" if share is None else f"{100 * share:.0f} %",
                f"{millions(size[0])} of {millions(size[1])} million",
            ),
            cls="tiles",
        ),
    )


def tile(name: str, value: str, *notes: str) -> Html:
    return el("div", el("span", name, cls="name"), el("b", value), *(el("span", n) for n in notes), cls="tile")


def title(row: Row) -> str:
    return str(row.get("title") or row.get("name") or "unnamed")


def millions(value: float | None) -> str:
    return "n/a" if value is None else f"{value / 1e6:.2f}"


@dataclass(frozen=True)
class Column:
    name: str
    value: Callable[[Row], float | None]
    text: Callable[[float | None], str] = decimals
    best: Callable[[list[float]], float] | None = max
    cls: str | None = None


def columns(metrics: dict[str, Any]) -> list[Column]:
    """Cost, then the average between its guards' columns, then the metrics in the file's order."""

    def field(name: str) -> Callable[[Row], float | None]:
        return lambda row: number(row.get(name))

    def scored(name: str) -> Callable[[Row], float | None]:
        return lambda row: score(row, name)

    others = [m["name"] for m in described(metrics) if m["name"] not in GUARDS]
    return [
        Column("steps", field("steps"), whole, None),
        Column("guidance", field("guidance"), whole, None),
        Column("million parameters", field("parameters"), millions, min),
        Column("seconds a clip", field("seconds"), decimals, min),
        Column("average", field("average"), cls="first"),
        *(Column(name, scored(name)) for name in guards(metrics)),
        *(Column(name, scored(name), cls="first" if i == 0 else None) for i, name in enumerate(others)),
        *(Column(p["label"], paired(p), best=None, cls="first") for p in pairs(metrics)),
    ]


def pairs(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """What was measured between two rows."""
    found = metrics.get("pairs") or []
    return [p for p in found if isinstance(p, dict) and p.get("label") and isinstance(p.get("rows"), list)]


def paired(pair: dict[str, Any]) -> Callable[[Row], float | None]:
    """The value stands in the row of the second of the two."""
    return lambda row: number(pair.get("value")) if row.get("name") == pair["rows"][-1] else None


def whole(value: float | None) -> str:
    return "n/a" if value is None else f"{value:g}"


def described(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    return [m for m in metrics.get("metrics") or [] if isinstance(m, dict) and m.get("name")]


def from_text(rows: list[Row], metrics: dict[str, Any]) -> Html:
    """The scores of the clips without a given first frame, where there are both kinds."""
    found = [row | {"scores": row["text_only"], "notes": {}} for row in rows if isinstance(row.get("text_only"), dict)]
    names = [n for n in ("average", *(m["name"] for m in described(metrics))) if any(n in r["scores"] for r in found)]
    if not names:
        return join()
    prompts = [p for p in metrics.get("prompts") or [] if isinstance(p, dict)]
    count = sum(not p.get("given") for p in prompts)
    text = f"Clips from text alone, {count} of {len(prompts)}. A given first frame hands its texture and its shape on. "
    shown = [Column(name, partial(score, name=name)) for name in names]
    return join(el("p", text, cls="soft"), table(found, shown))


def table(rows: list[Row], shown: list[Column]) -> Html:
    student = teacher_and_student(rows)[1]
    best = {c.name: best_text(c, rows) for c in shown}
    head = [el("th", c.name.replace("_", " "), scope="col", cls=c.cls) for c in shown]
    body = []
    for row in rows:
        cells = [el("th", title(row), scope="row")]
        for c in shown:
            text = c.text(c.value(row))
            classes = [c.cls, "best" if text == best[c.name] else None, "none" if text == "n/a" else None]
            note = (row.get("notes") or {}).get(c.name)
            cells.append(el("td", text, cls=" ".join(filter(None, classes)) or None, title=note and str(note)))
        body.append(el("tr", *cells, cls="student" if row is student else None))
    top = el("thead", el("tr", el("th"), *head))
    return el("div", el("table", top, el("tbody", *body)), cls="scroll")


def best_text(column: Column, rows: list[Row]) -> str | None:
    """The best value as shown, so that what reads the same is marked the same; None when no row stands out."""
    values = [v for row in rows if (v := column.value(row)) is not None]
    if column.best is None or len({column.text(v) for v in values}) < 2:
        return None
    return column.text(column.best(values))


def legend(metrics: dict[str, Any]) -> Html:
    summaries = {m["name"]: str(m.get("summary") or "no description") for m in described(metrics)}
    averaged = [m["name"] for m in described(metrics) if m.get("in_average")]
    counted = ", ".join(n.replace("_", " ") for n in averaged) or "the metrics that count towards it"
    entries = {
        "guidance": "scale of classifier-free guidance; 1 is none, anything else doubles the work of a step",
        "seconds a clip": f"sampling only, after a call that is not timed, without decoding{on_hardware(metrics)}",
        "average": f"mean of {counted}; what does not apply (n/a) is left out",
    }
    entries |= {n: summaries.pop(n, "not measured") + " (guard, not in the average)" for n in guards(metrics)}
    inside = set(averaged)
    entries |= {n: s + ("" if n in inside else " (not in the average)") for n, s in summaries.items()}
    entries |= {
        p["label"]: "a distance between the two rows' clips of the same noise, not a score" for p in pairs(metrics)
    }
    count = number(metrics.get("clips"))
    sample = f"{count:.0f} clips a row, the same prompts, first frames and noise in every row. " if count else ""
    if metrics.get("instead_of"):
        sample += f"The suite {metrics['instead_of']} was asked for and could not be measured: these are our metrics. "
    text = sample + "Scores are from 0 to 1, higher is better; the best of each column is marked."
    listed = [part for n, s in entries.items() for part in (el("dt", n.replace("_", " ")), el("dd", s))]
    return join(el("p", text, cls="soft"), el("dl", *listed))


def on_hardware(metrics: dict[str, Any]) -> str:
    hardware = metrics.get("hardware") or {}
    parts = [str(hardware["cpu"])] if hardware.get("cpu") else []
    parts += [f"{hardware['threads']} thread{'s' * (hardware['threads'] != 1)}"] if hardware.get("threads") else []
    parts += [f"torch {hardware['torch']}"] if hardware.get("torch") else []
    return f"; {', '.join(parts)}" if parts else ""
