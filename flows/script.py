"""What ``python -m flows.NAME`` does with its words and its exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NoReturn

import cyclopts

from stocktrace.cli import output, streams
from stocktrace.errors import StocktraceError, UsageError


def run_script(name: str, command: Callable[..., int | None]) -> NoReturn:
    """Run ``command`` as the module ``name``; an error is a sentence and status 1 or 2 (usage)."""
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
