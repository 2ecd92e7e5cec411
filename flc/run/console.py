"""What a run says, on stderr; silent off rank 0. Long work has a bar on a terminal; in a file or a pipe it has a line
every half minute."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
from rich.console import Console as Rich
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

EVERY = 30.0
"""Seconds between two lines of work that has no bar."""
BAR = 8
"""Characters of a bar where a terminal has no room for more."""


def in_words(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 1e9 else f"{parameters / 1e6:.2f} million"


def duration(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


def peak() -> int:
    """The most memory this process has held so far, in bytes: of its GPU where it uses one, or of the machine."""
    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


class Bar:
    """How far some work is. This one is not shown."""

    def advance(self, count: int = 1, note: str = "") -> None: ...

    def restart(self, total: int) -> None: ...

    def at(self, position: int, note: str = "") -> None: ...


class Drawn(Bar):
    """On a terminal. The note has what the rest leaves of a line: the count and both times are never cut."""

    def __init__(self, progress: Progress, title: str, total: int) -> None:
        self.progress, self.title, self.total, self.widest = progress, title, total, 0
        self.task = progress.add_task(title, total=total, note="")

    def cut(self, note: str) -> str:
        taken = len(self.title) + BAR + 2 * len(str(self.total)) + 1 + 2 * len("0:00:00") + 5
        note = note[: max(0, self.progress.console.width - taken)]
        self.widest = max(self.widest, len(note))
        return note.ljust(self.widest)  # else the bar's end would move with each note

    def advance(self, count: int = 1, note: str = "") -> None:
        self.progress.update(self.task, advance=count, note=self.cut(note))

    def restart(self, total: int) -> None:
        self.total = total
        self.progress.update(self.task, total=total, completed=0)

    def at(self, position: int, note: str = "") -> None:
        self.progress.update(self.task, completed=position, note=self.cut(note))


class Lines(Bar):
    """In a file or a pipe."""

    def __init__(self, console: Console, title: str, total: int) -> None:
        self.console, self.title, self.total, self.done = console, title, total, 0
        self.began = self.said = time.monotonic()
        self.said_at = 0

    def advance(self, count: int = 1, note: str = "") -> None:
        self.at(self.done + count, note)

    def restart(self, total: int) -> None:
        self.total, self.done, self.said_at, self.said = total, 0, 0, time.monotonic()

    def at(self, position: int, note: str = "") -> None:
        if not self.done:  # what a resumed training has behind it took no time of this process
            self.said_at = position - 1
        self.done, now = position, time.monotonic()
        if now - self.said < EVERY or self.done <= self.said_at:
            return
        each = (now - self.said) / (self.done - self.said_at)
        parts = [f"{self.title}: {self.done} of {self.total}", note, f"{each:.3g} s/iteration",
                 f"{duration(each * (self.total - self.done))} left", f"{peak() / 1e9:.2f} GB at most"]  # fmt: skip
        self.console.say(", ".join(part for part in parts if part))
        self.said, self.said_at = now, self.done

    def end(self) -> None:
        self.console.say(f"{self.title}: {self.done} of {self.total} in {duration(time.monotonic() - self.began)}")


class Console:
    def __init__(self, quiet: bool = False) -> None:
        self.rich, self.quiet = Rich(stderr=True, highlight=False), quiet

    def say(self, text: str) -> None:
        if not self.quiet:
            self.rich.print(text, soft_wrap=True, markup=False)  # names of folders may hold brackets

    def warn(self, text: str) -> None:
        if not self.quiet:
            self.rich.print(Text.assemble(("warning:", "yellow"), " ", text), soft_wrap=True)

    @contextmanager
    def bar(self, title: str, total: int, passing: bool = False) -> Iterator[Bar]:
        """`passing`: nothing is left of it when it is done."""
        if self.quiet:
            yield Bar()
            return
        if not self.rich.is_terminal:
            lines = Lines(self, title, total)
            yield lines
            if not passing:
                lines.end()
            return
        whole, rest = Column(no_wrap=True), Column(ratio=1, min_width=BAR)
        columns = (TextColumn("{task.description}", table_column=whole),
                   BarColumn(bar_width=None, table_column=rest), MofNCompleteColumn(), TimeElapsedColumn(),
                   TimeRemainingColumn(), TextColumn("{task.fields[note]}", table_column=whole))  # fmt: skip
        with Progress(*columns, console=self.rich, transient=passing, expand=True) as progress:
            yield Drawn(progress, title, total)
