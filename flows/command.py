"""``python -m flows.capture``: a capture under Prefect, from the command line.

Wrong arguments are reported before Prefect is imported, which takes 5 s.
"""

from __future__ import annotations

import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import cyclopts
from cyclopts import Parameter

from flows import console
from flows.fields import check_capture
from stocktrace import calendar
from stocktrace.calendar import MarketHours
from stocktrace.cli import output, streams
from stocktrace.cli.signals import interrupting_imports
from stocktrace.end_time import HELP
from stocktrace.errors import MarketClosed, UsageError

_ON_DISK = "; everything received is on disk."


def main(arguments: list[str] | None = None) -> int:
    """Run it. Exits 0 when done, 1 on failure, 2 on wrong usage; 129, 130, 143 on a signal."""
    app = console.make_app("flows.capture", run, "Record live market trades under Prefect.")
    streams.protect_streams()
    signal.signal(signal.SIGTERM, console.exit_on_signal)
    console.handle_hang_up()
    try:
        status = app(arguments)
    except cyclopts.CycloptsError as error:
        return _exit_with(f"{' '.join(str(error).split())} Try --help.", 2)
    except UsageError as error:
        return _exit_with(str(error), 2)
    except KeyboardInterrupt:
        return _exit_with(f"Interrupted{_ON_DISK}", 130)
    except Exception as error:  # noqa: BLE001 - a failed run ends in a state: this is Prefect's
        reason = f"Prefect failed ({type(error).__name__}: {error}){_ON_DISK}"
        return _exit_with(reason, 130 if _was_raised_by_interrupt(error) else 1)
    return status if isinstance(status, int) else 0


def run(
    *tickers: str,
    for_: Annotated[str | None, Parameter(name="--for", help="How long: 30s, 10m, 1h30m.")] = None,
    until: Annotated[str | None, Parameter(help=HELP)] = None,
    data_dir: Annotated[str | None, Parameter(help="Folder for recorded data.")] = None,
    url: Annotated[str | None, Parameter(help="Address of the trade WebSocket.")] = None,
    roll_interval: Annotated[str | None, Parameter(help="Length of a window.")] = None,
    market: Annotated[
        MarketHours, Parameter(help="Record only while this market is open.")
    ] = "always",
    wait_for_key: Annotated[
        str | None, Parameter(help="How long to wait for a capture with the same key to end.")
    ] = None,
    lake: Annotated[str | None, Parameter(help="Store that published files are sent to.")] = None,
) -> int:
    """Record the trades of TICKERS for a bounded time, as a Prefect flow run.

    It runs against PREFECT_API_URL, or against a server of its own that ends with it. The API key
    is read from FINNHUB_API_KEY, in the environment or in a .env file.
    """
    settings = {
        "data_dir": data_dir,
        "url": url,
        "roll_interval": roll_interval,
        "wait_for_key": wait_for_key,
        "lake": lake,
    }
    now = datetime.now(UTC)
    try:
        calendar.check_schedule(market, tickers, now)
    except MarketClosed as closed:
        output.print_line(f"Skipped: {closed}")
        return 0
    _, span = check_capture(tickers, for_, until, now, **settings)
    with interrupting_imports():
        from prefect.flows import load_flow_from_entrypoint

        # As a worker loads it: this module is below the flow's.
        capture: Any = load_flow_from_entrypoint("flows.capture.capture")
    _start_server()
    if span.until is not None:  # midnight may have passed while the server started
        until = span.until.isoformat()
    state = capture(list(tickers), for_, until, market, return_state=True, **settings)
    result = state.result(raise_on_failure=False)
    if state.is_completed() and isinstance(result, dict):
        print_report(Path(result["data_dir"]), result["session"])
        return 0
    return _exit_with(state.message or str(state.type), 1)


def _start_server() -> None:
    """Start Prefect's own server, if no other is set, where Ctrl-C does not reach it."""
    from prefect import get_client

    # The terminal sends signals to both processes, and the server must hear how the run ended. A
    # thread's signal mask is inherited by its child, and the main thread stays interruptible.
    failures: list[Exception] = []

    def start() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            get_client(sync_client=True)
        except Exception as error:  # noqa: BLE001 - raised on the thread that waits
            failures.append(error)

    starting = threading.Thread(target=start, name="stocktrace-server", daemon=True)
    starting.start()
    starting.join()
    if failures:
        raise failures[0]


def _was_raised_by_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def print_report(data_dir: Path, session: str) -> None:
    """Print the books of a session and where its files are."""
    from stocktrace.sessions.report import SessionReport
    from stocktrace.store.layout import Layout

    output.print_summary(SessionReport.read(Layout(data_dir).report(session)), data_dir)


def _exit_with(sentence: str, status: int) -> int:
    sys.stderr.write(f"stocktrace: {sentence}\n")
    return status
