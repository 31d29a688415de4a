"""Runs ``python -m flows.NAME``: parses its arguments and sets its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import cyclopts

from stocktrace.cli import output, streams
from stocktrace.errors import StocktraceError, UsageError


def run_script(name: str, command: Callable[..., int | None]) -> NoReturn:
    """Run ``command`` as module ``name``. Errors exit with status 1, wrong usage with 2."""
    streams.protect_streams()
    app = cyclopts.App(
        name=f"python -m {name}",
        help_format="plaintext",
        version_flags=[],
        result_action="return_value",
    )
    app.default(command)
    try:
        sys.exit(app(exit_on_error=False, print_error=False))
    except (cyclopts.CycloptsError, StocktraceError) as error:
        output.print_error(" ".join(str(error).split()))
        sys.exit(2 if isinstance(error, (cyclopts.CycloptsError, UsageError)) else 1)
