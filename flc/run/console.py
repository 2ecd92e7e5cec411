"""What a run says: one bar per long step, on stderr; silent off rank 0."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text


def in_words(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.2f} million"


class Bar:
    def __init__(self, progress: Progress | None, task: int = 0) -> None:
        self.progress, self.task = progress, task

    def advance(self, count: int = 1, note: str = "") -> None:
        if self.progress is not None:
            self.progress.update(self.task, advance=count, note=note)  # type: ignore[arg-type]

    def restart(self, total: int) -> None:
        if self.progress is not None:
            self.progress.update(self.task, total=total, completed=0)  # type: ignore[arg-type]

    def at(self, position: int, note: str = "") -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=position, note=note)  # type: ignore[arg-type]


class Console:
    def __init__(self, quiet: bool = False) -> None:
        self.rich, self.quiet, self.began = Rich(stderr=True, highlight=False), quiet, time.monotonic()

    def say(self, text: str) -> None:
        if not self.quiet:
            self.rich.print(text, soft_wrap=True, markup=False)  # names of folders may hold brackets

    def warn(self, text: str) -> None:
        if not self.quiet:
            self.rich.print(Text.assemble(("warning:", "yellow"), " ", text), soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, passing: bool = False) -> Iterator[Bar]:
        """`passing`: it is gone when it is done, so that it is on terminals alone."""
        if self.quiet or (passing and not self.rich.is_terminal):
            yield Bar(None)
            return
        columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}"))  # fmt: skip
        with Progress(*columns, console=self.rich, transient=passing) as progress:
            yield Bar(progress, progress.add_task(title, total=total, note=""))
