"""The command line. This module imports no torch, so that `flc --help` answers at once."""

from __future__ import annotations

import sys
import traceback
from typing import Any, NoReturn

import typer

from flc.cli.app import app
from flc.cli.ranks import ended, note_for_launcher, other_rank
from flc.errors import (
    OF_MEMORY,
    Incomplete,
    Interrupted,
    NonFinite,
    UnknownOption,
    UserError,
    check_text,
    out_of_memory,
    out_of_space,
    refused_path,
)

#: Characters of a word in a message.
LONGEST = 300
#: What typer raises for a wrong flag: newer typer brings its own copy of click, older ones use the package, so the
#: class is found as a parent of typer's public BadParameter.
USAGE: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run, and turn errors into one line on stderr: exit 2 for bad input, 1 for a run that failed, 128 + n for
    a signal. `--debug` anywhere shows the traceback too."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"] or ["--help"]
    try:
        check_arguments(arguments)
        code = app(arguments, prog_name="flc", standalone_mode=False) or 0
        if code == 130:  # what typer makes of Ctrl-C, without a word
            fail("interrupted", code, debug)
    except typer.Exit as error:
        code = error.exit_code
    except USAGE as error:
        from flc.cli.hints import of_flag

        code = fail(of_flag(error), 2, debug)
    except (typer.Abort, KeyboardInterrupt):
        code = fail("interrupted", 130, debug)
    except Interrupted as error:
        code = fail(f"{error}; finished work is kept: run again with --resume", 128 + error.signal, debug)
    except (NonFinite, Incomplete) as error:
        code = fail(str(error), 1, debug)
    except UnknownOption as error:
        from flc.cli.hints import way_to

        way = way_to(error.name, error.section)
        code = fail(f"{error.what}: {way}" if way else str(error), 2, debug)
    except UserError as error:
        code = fail(str(error), 2, debug)
    except Exception as error:
        if out_of_space(error):  # outside a stage: a lock file, a report, a clip
            code = fail(f"no disk space left ({error}): free some and run again", 2, debug)
        elif out_of_memory(error):
            said = (str(error) or "no memory left").split(". ")[0]
            code = fail(f"{said}: {OF_MEMORY}", 2, debug)
        elif fault := refused_path(error):
            code = fail(fault, 2, debug)
        else:
            code = fail(f"{type(error).__name__}: {error} (run with --debug for the traceback)", 1, debug)
    if engine := sys.modules.get("flc.train.deepspeed"):  # only where it was used: --help imports no torch
        engine.leave(code)
    sys.exit(code)


def check_arguments(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            check_text(argument)
        except ValueError as error:
            raise UserError(f"{error}: arguments, and names of files, must be UTF-8 text") from error


def fail(message: str, code: int, debug: bool) -> int:
    """Called inside main's except clauses. Of several ranks one speaks; a signal comes to all of them."""
    if debug:
        traceback.print_exc()
    elif (rank := other_rank()) and (code > 128 or ended()):
        return code
    elif rank:
        message = f"rank {rank}: {message}"
    line = f"flc: error: {one_line(message)}"
    note_for_launcher(line)
    typer.echo(line, err=True)
    return code


def one_line(message: str) -> str:
    """As a terminal can show it, whatever a stranger's file put into it: what is not printed is escaped, and of a word
    that is longer than any path the middle is left out."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(message.split()))
    return " ".join(w if len(w) <= LONGEST else f"{w[: LONGEST // 2]}...{w[-LONGEST // 2 :]}" for w in shown.split(" "))
