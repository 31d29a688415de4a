"""The command line. Commands load what they need when they run: ``--help`` is instant."""

from __future__ import annotations

import logging
import os
import sys

import cyclopts

from stocktrace import __version__
from stocktrace.cli import (
    backfill,
    capturing,
    dashboard,
    data,
    exchange,
    merge,
    output,
    repair,
    report,
    tickers,
    upkeep,
    watch,
)
from stocktrace.errors import StocktraceError, UsageError

app = cyclopts.App(
    name="stocktrace",
    help="Record live market trades: every trade once, every gap named.",
    help_format="plaintext",
    version=__version__,
    result_action="return_value",
)
for _command in (
    capturing.capture,
    capturing.demo,
    exchange.exchange,
    watch.watch,
    dashboard.dashboard,
    data.trades,
    data.bars,
    data.gaps,
    data.sessions,
    report.report,
    backfill.backfill,
    merge.merge,
    repair.reconcile,
    upkeep.convert,
    upkeep.recover,
    upkeep.compact,
    upkeep.verify,
    upkeep.requeue,
    upkeep.audit,
):
    app.command(_command)
app.command(tickers.app)
app.register_install_completion_command()


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit with its status: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run a command; every error is one sentence on stderr."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("stocktrace").setLevel(logging.INFO)
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
        output.flush()
    except cyclopts.CycloptsError as error:
        return _tell(f"{_one_line(error)} Try `stocktrace --help`.", 2)
    except StocktraceError as error:
        return _tell(str(error), 2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        return _tell("interrupted", 130)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is still buffered
        return 0
    except OSError as error:
        return _tell(f"{error.filename or 'The system'}: {error.strerror or error}.", 1)
    return status if isinstance(status, int) else 0


def _tell(sentence: str, status: int) -> int:
    output.complain(sentence)
    return status


def _one_line(error: cyclopts.CycloptsError) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else f"{text}."
