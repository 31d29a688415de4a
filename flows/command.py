"""``python -m flows.capture``: a capture under Prefect, from the command line.

What is wrong with the words is told before Prefect is imported, which takes 5 s.
"""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import Parameter

from flows import console
from flows.request import CaptureRequest
from stocktrace import market_hours
from stocktrace.cli import output, streams
from stocktrace.cli.signals import interrupting_imports
from stocktrace.end_time import HELP
from stocktrace.errors import MarketClosed, UsageError
from stocktrace.market_hours import MarketHours

_SAFE = "; what was received is on disk."

app = cyclopts.App(
    name="python -m flows.capture",
    help="Record live market trades under Prefect.",
    help_format="plaintext",
    version_flags=[],
    result_action="return_value",
)


def main(arguments: list[str] | None = None) -> int:
    """Run it; 0 done, 1 failed, 2 wrong usage, 129, 130 and 143 interrupted, in order."""
    streams.protect_streams()
    signal.signal(signal.SIGTERM, console.leave)
    console.heed_hang_up()
    try:
        status = app(arguments, exit_on_error=False, print_error=False)
    except cyclopts.CycloptsError as error:
        return _exit_with(f"{' '.join(str(error).split())} Try --help.", 2)
    except UsageError as error:
        return _exit_with(str(error), 2)
    except KeyboardInterrupt:
        return _exit_with(f"Interrupted{_SAFE}", 130)
    except Exception as error:  # noqa: BLE001 - the run's own failures are states: it is Prefect's
        reason = f"Prefect failed ({type(error).__name__}: {error}){_SAFE}"
        return _exit_with(reason, 130 if _interrupted(error) else 1)
    return status if isinstance(status, int) else 0


@app.default
def run(
    *tickers: str,
    for_: Annotated[str | None, Parameter(name="--for", help="How long: 30s, 10m, 1h30m.")] = None,
    until: Annotated[
        str | None,
        Parameter(help=HELP),
    ] = None,
    data_dir: Annotated[str | None, Parameter(help="Folder for what is recorded.")] = None,
    url: Annotated[str | None, Parameter(help="Address of the trade WebSocket.")] = None,
    roll_interval: Annotated[str | None, Parameter(help="Length of a window.")] = None,
    market: Annotated[
        MarketHours, Parameter(help="The market whose hours it keeps: closed, nothing is recorded.")
    ] = "always",
    wait_for_key: Annotated[
        str | None, Parameter(help="How long to wait for a capture with the same key to end.")
    ] = None,
    lake: Annotated[str | None, Parameter(help="Store that published files are sent to.")] = None,
) -> int:
    """Record the trades of TICKERS for a bounded time, as a Prefect flow run.

    It runs against PREFECT_API_URL, else against a server of its own that ends with it. The key
    is read from FINNHUB_API_KEY, in the environment or in a .env file.
    """
    asked = {
        "data_dir": data_dir,
        "url": url,
        "roll_interval": roll_interval,
        "wait_for_key": wait_for_key,
        "lake": lake,
    }
    now = datetime.now(UTC)
    try:
        market_hours.check_schedule(market, tickers, now)
    except MarketClosed as closed:
        output.print_line(f"Skipped: {closed}")
        return 0
    span = CaptureRequest.of(tickers, for_, until, now, **asked).span
    with interrupting_imports():
        from flows.capture import capture

    _start_server()
    if span.until is not None:  # midnight may have come while the server started
        until = span.until.isoformat()
    state = capture(list(tickers), for_, until, market, return_state=True, **asked)
    result = state.result(raise_on_failure=False)
    if state.is_completed() and isinstance(result, dict):
        print_report(Path(result["data_dir"]), result["session"])
        return 0
    return _exit_with(state.message or str(state.type), 1)


def _start_server() -> None:
    """Start a server of one's own, if there is no other, where Ctrl-C does not reach it.

    The terminal sends it, and a hang-up, to both of us, and the server must live to hear how the
    run ended. A thread's mask is its child's; the main thread can be interrupted meanwhile.
    """
    from prefect import get_client

    failures: list[Exception] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            get_client(sync_client=True)
        except Exception as error:  # noqa: BLE001 - raised by who waits for it
            failures.append(error)

    starting = threading.Thread(target=start, name="stocktrace-server", daemon=True)
    starting.start()
    starting.join()
    if failures:
        raise failures[0]


def _interrupted(error: BaseException | None) -> bool:
    """Whether ``error`` happened while an interrupt was dealt with."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def print_report(data_dir: Path, session: str) -> None:
    """Print where the files are and the books."""
    from stocktrace.sessions.report import SessionReport
    from stocktrace.store.layout import Layout

    output.print_summary(SessionReport.read(Layout(data_dir).report(session)), data_dir)


def _exit_with(sentence: str, status: int) -> int:
    sys.stderr.write(f"stocktrace: {sentence}\n")
    return status
