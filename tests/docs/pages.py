"""The pages that a reader may copy from: README, CONTRIBUTING, docs/; their blocks and their code in lines."""

from __future__ import annotations

import importlib.util
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
ROOMS = ("flc", "plugins", "baselines", "benchmarks", "examples", "tests")
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def hooks() -> ModuleType:
    """docs/hooks.py, which is no part of a package."""
    spec = importlib.util.spec_from_file_location("flc_docs_hooks", ROOT / "docs" / "hooks.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    found = BLOCK.finditer(page.read_text())
    return [textwrap.dedent(block[3]) for block in found if block[2] in languages]


def spans(page: Path) -> list[str]:
    """What stands between backticks, outside blocks."""
    return re.findall(r"(?<!`)`([^`\n]+(?:\n[^`\n]+)?)`(?!`)", BLOCK.sub("", page.read_text()))


def table(page: Path, first: str) -> list[list[str]]:
    """The table whose first column has this title: its head, and its rows."""
    _, found, rest = page.read_text().partition(f"| {first} |")
    head, _, *rows = (found + rest).partition("\n\n")[0].splitlines()
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in (head, *rows)]


def commands(page: Path) -> Iterator[list[str]]:
    """Arguments of every `flc` that the page has a reader type: in blocks, and in lines of text."""
    typed = [line for block in blocks(page, "", "sh", "bash") for line in block.replace("\\\n", " ").splitlines()]
    for line in [*typed, *(span for span in spans(page) if span.startswith("flc "))]:
        for part in re.split(r"&&|#", line):
            words = shlex.split(part)
            if words[:1] == ["flc"]:
                yield words[1:]
            elif words[:1] == ["torchrun"]:
                yield words[words.index("flc") + 1 :]
