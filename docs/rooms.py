"""Draw `rooms.svg` from the code's own imports: `python docs/rooms.py`.

Above, the stages of a run in their order, with what each reads of earlier ones, and the rooms of flc that the file of a
stage reaches: by itself, or through the modules of `flc/run` that it imports. Below, the rooms by who imports whom.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
OUT = Path(__file__).with_name("rooms.svg")
WIDTH, LEFT, ROW, TOP = 960, 250, 30, 120
#: In the order the data takes. Files at the top level that algorithms are written with are one room.
ROOMS = ("data", "models", "train", "sample", "evaluate", "export", "report")
SHARED = ("run", "cli")


def module_file(name: str) -> Path | None:
    path = ROOT.joinpath(*name.split("."))
    found = [p for p in (path.with_suffix(".py"), path / "__init__.py") if p.exists()]
    return found[0] if found else None


@cache
def imported(file: Path) -> tuple[str, ...]:
    """Modules of flc that a file imports, also inside functions, but not for its types alone."""
    tree, found = ast.parse(file.read_text()), []
    typing = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.If)
              and "TYPE_CHECKING" in ast.unparse(node.test) for inner in ast.walk(node)}  # fmt: skip
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in typing:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name if module_file(name) else node.module for name in names]
    return tuple(dict.fromkeys(name for name in found if name.split(".")[0] == "flc"))


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else "flc"


def reached(file: Path) -> set[str]:
    """Rooms that a stage's file reaches; modules of run that all stages share, and other stages, lead no further."""
    rooms, seen, left = set[str](), {file}, [file]
    while left:
        for name in imported(left.pop()):
            path = module_file(name)
            if room(name) != "run":
                rooms.add(room(name))
            elif path and path not in seen and not name.startswith(("flc.run.stages", "flc.run.job", "flc.run.stage")):
                seen.add(path)
                left.append(path)
    return rooms


def edges() -> dict[tuple[str, str], int]:
    """How many imports lead from a room to another."""
    found: dict[tuple[str, str], int] = {}
    for file in sorted((ROOT / "flc").rglob("*.py")):
        own = file.relative_to(ROOT / "flc").parts[0].removesuffix(".py")
        for name in imported(file):
            pair = own, room(name)
            if pair[0] != pair[1] and set(pair) <= {*ROOMS, *SHARED}:
                found[pair] = found.get(pair, 0) + 1
    return found


def text(x: float, y: float, words: str, anchor: str = "start", more: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{more}>{words}</text>'


def stages() -> Iterator[str]:
    from flc.run.stages import PIPELINE

    column = {name: LEFT + 60 + 92 * i for i, name in enumerate(ROOMS)}
    for name, x in column.items():
        yield text(x, TOP - 22, f"flc/{name}", "middle")
    rows = {stage.name: TOP + ROW * i for i, stage in enumerate(PIPELINE)}
    for stage in PIPELINE:
        y = rows[stage.name]
        yield text(LEFT - 20, y + 5, stage.name, "end", ' font-weight="bold"')
        yield f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 20}" y2="{y}" opacity=".25"/>'
        own = module_file(type(stage).__module__)
        for name in sorted(reached(own) & column.keys() if own else ()):
            yield f'<circle cx="{column[name]}" cy="{y}" r="6" fill="currentColor"/>'
        for made_by in stage.reads.values():
            begin, bend = rows[made_by], 24 * (1 + (y - rows[made_by]) / ROW) ** 0.7
            x = LEFT - 105
            curve = f"M {x} {begin} C {x - bend:.1f} {begin}, {x - bend:.1f} {y}, {x} {y}"
            yield f'<path d="{curve}" fill="none" marker-end="url(#to)"/>'


def imports() -> Iterator[str]:
    found, top = edges(), TOP + 8 * ROW + 100
    names = ("cli", "run", *ROOMS)
    column = {name: LEFT + 60 + 92 * i for i, name in enumerate(ROOMS)}
    for name, x in column.items():
        yield text(x, top - 40, f"flc/{name}", "middle")
    for i, name in enumerate(names):
        y = top + 24 * i
        yield text(LEFT - 20, y, f"flc/{name}", "end")
        for other, x in column.items():
            if count := found.get((name, other)):
                yield text(x, y, str(count), "middle")


def drawn() -> str:
    height = TOP + 8 * ROW + 100 + 24 * 9
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
            'font-size="14" fill="currentColor" stroke="none">')  # fmt: skip
    style = "<style>line, path { stroke: currentColor; stroke-width: 1.3 } svg { color: #555 }</style>"
    arrow = ('<defs><marker id="to" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
             '<path d="M 0 0 L 8 4 L 0 8 z" fill="currentColor"/></marker></defs>')  # fmt: skip
    large = ' font-size="17"'
    titles = [text(20, 40, "What a stage reads of earlier ones, and the rooms that its file reaches", more=large),
              text(20, TOP + 8 * ROW + 20, "How many imports lead from one room to another", more=large)]  # fmt: skip
    return "\n".join([head, style, arrow, *titles, *stages(), *imports(), "</svg>"]) + "\n"


if __name__ == "__main__":
    OUT.write_text(drawn())
