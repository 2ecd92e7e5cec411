"""The command line. This module imports no torch, so that `flc --help` answers at once."""

from __future__ import annotations

import sys
from typing import NoReturn

import typer

from flc.cli.app import app
from flc.errors import Interrupted, NonFinite, UserError


#: What typer raises for a wrong flag. typer brings a copy of click of its own since 0.27 and used the package before:
#: the class is the one that typer's public BadParameter derives from.
USAGE = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run, and turn errors into one line on stderr: exit 2 for bad input, 1 for a run that failed, 128 + n for
    a signal. `--debug` anywhere shows the traceback instead."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"] or ["--help"]
    try:
        code = app(arguments, prog_name="flc", standalone_mode=False) or 0
    except typer.Exit as error:
        code = error.exit_code
    except USAGE as error:
        code = fail(error.format_message(), 2, debug)  # type: ignore[attr-defined]
    except (typer.Abort, KeyboardInterrupt):
        code = fail("interrupted", 130, debug)
    except Interrupted as error:
        code = fail(f"{error}; finished work is kept: run again with --resume", 128 + error.signal, debug)
    except NonFinite as error:
        code = fail(str(error), 1, debug)
    except UserError as error:
        code = fail(str(error), 2, debug)
    except Exception as error:
        code = fail(f"{type(error).__name__}: {error} (run with --debug for the traceback)", 1, debug)
    sys.exit(code)


def fail(message: str, code: int, debug: bool) -> int:
    if debug:
        raise  # noqa: PLE0704 - inside the except clauses of main
    typer.echo(f"flc: error: {' '.join(message.split())}", err=True)
    return code
