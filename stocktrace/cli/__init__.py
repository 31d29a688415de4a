"""The command line. It imports nothing slow before the process can handle signals."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from stocktrace.cli import signals

if TYPE_CHECKING:
    import cyclopts


def main(arguments: list[str] | None = None) -> None:
    """Run a command, and exit with 0 (done), 1 (failed), 2 (wrong usage) or 130 (interrupted)."""
    with signals.interrupting_imports():
        from stocktrace.cli import streams

        streams.protect_streams()
        status = run(arguments)
    signals.ignore_interrupts()
    sys.exit(status)


def run(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status. Every error is one sentence on stderr."""
    import logging

    import cyclopts

    from stocktrace.cli import output
    from stocktrace.cli.commands import app
    from stocktrace.errors import StocktraceError, UsageError

    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("stocktrace").setLevel(logging.INFO)
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
        output.flush()
        return status if isinstance(status, int) else 0
    except cyclopts.CycloptsError as error:
        sentence, status = f"{_explain(error)} Try `stocktrace --help`.", 2
    except StocktraceError as error:
        sentence, status = str(error), 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        sentence, status = "interrupted", 130
    except output.ReaderGone:
        return 0
    except OSError as error:
        sentence, status = f"{error.filename or 'The system'}: {error.strerror or error}.", 1
    if not _has_working_folder():
        sentence += " The working folder no longer exists: change to another one (cd) first."
    output.print_error(sentence)
    return status


def _has_working_folder() -> bool:
    from pathlib import Path

    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def _explain(error: cyclopts.CycloptsError) -> str:
    import cyclopts

    if isinstance(error, cyclopts.UnusedCliTokensError) and error.unused_tokens:
        return f"Unexpected argument {' '.join(error.unused_tokens)!r}."
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."
