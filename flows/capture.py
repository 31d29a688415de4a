"""The capture as a Prefect flow: one task captures, and one task a window converts.

    python -m flows.capture AAPL MSFT --for 30m

The capturing task is called, not submitted, so that a cancellation reaches it. It is never
retried, because a second capture is another session. Recording does not depend on Prefect's server.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before the imports: Prefect alone takes 5 s
    from stocktrace.cli.signals import interrupting_imports

    with interrupting_imports():
        from flows.command import main

    sys.exit(main())

import contextlib
import logging
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from prefect import flow, runtime, task
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectWrappedFuture
from prefect.logging.handlers import APILogHandler
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import console
from flows.fields import CAPTURE_FLOW, Duration, LakeUrl, Tickers, Until, Url, check_capture
from flows.key_lease import KeyLease
from flows.progress import ProgressReporter
from flows.retarget import TickerCommands
from stocktrace import calendar
from stocktrace.end_time import CaptureSpan
from stocktrace.errors import MarketClosed, StocktraceError
from stocktrace.live import api
from stocktrace.live.control import CaptureControl
from stocktrace.record.publish import PublishedWindow, publish_window
from stocktrace.sessions.report import SessionReport
from stocktrace.settings import Settings
from stocktrace.show.markdown import report_line
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId

log = logging.getLogger("stocktrace.flow")

# Never closed: a process runs one flow.
_SHIELD = contextlib.ExitStack()


def run_name() -> str:
    """Return ``AAPL MSFT NVDA +3 · 30m``; an exception would fail the run."""
    parameters = runtime.flow_run.parameters or {}
    tickers = list(parameters.get("tickers") or ())
    names = [*tickers[:3], *([f"+{len(tickers) - 3}"] if len(tickers) > 3 else [])]
    return f"{' '.join(map(str, names))} · {describe_span(parameters)}"


def describe_span(parameters: dict[str, Any]) -> str:
    """Describe how long a run with these parameters records: ``30m``, ``until close``."""
    until = str(parameters.get("until") or "").replace("_", " ")
    return str(parameters.get("duration") or f"until {until}")


def now() -> datetime:
    """Return the current time, which tests replace."""
    return datetime.now(UTC)


@flow(
    name=CAPTURE_FLOW,
    flow_run_name=run_name,
    persist_result=False,  # the report on disk has it
    # One conversion at a time, so that it does not compete with the feed for two cores.
    task_runner=cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=1)),
)
def capture(
    tickers: Tickers,
    duration: Duration | None = None,
    until: Until | None = None,
    market: calendar.MarketHours = "always",
    wait_for_key: Duration | None = None,
    data_dir: str | None = None,
    url: Url | None = None,
    roll_interval: Duration | None = None,
    lake: LakeUrl | None = None,
) -> dict[str, Any] | State[Any]:
    """Record the trades of some tickers for a bounded time.

    The API key is read from FINNHUB_API_KEY where the flow runs, and is never a parameter. Set
    either *duration* or *until*.

    Args:
        tickers: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        duration: How long to record: 30s, 10m, 1h30m. Leave it out if *until* is set.
        until: When to end: close (of the US session, also on half days), extended close, 16:00
            (of the machine), 16:00 America/New_York, tomorrow 00:00 UTC, or an ISO time.
        market: Record only while this market is open. When it is closed, or closes within a
            minute, the run ends at once as Skipped, whatever the tickers are.
        wait_for_key: How long to wait for a capture with the same key to end, and take over.
            Defaults to STOCKTRACE_WAIT_FOR_KEY, or not at all.
        data_dir: The folder for all recorded data. Defaults to STOCKTRACE_DATA_DIR, or data.
        url: The address of the trade WebSocket. Defaults to STOCKTRACE_URL, or Finnhub's.
        roll_interval: The length of a window, after which its trades are published as Parquet.
            Defaults to STOCKTRACE_ROLL_INTERVAL, or 10m.
        lake: The store that published files are sent to, such as s3://bucket/prefix. Defaults to
            STOCKTRACE_LAKE, or none. Its credentials are never a parameter.

    Returns:
        Session, state, reason, books and data folder.
    """
    settings = {
        "wait_for_key": wait_for_key,
        "data_dir": data_dir,
        "url": url,
        "roll_interval": roll_interval,
        "lake": lake,
    }
    console.survive_closed_output()
    console.handle_hang_up()
    _log_to_flow_run()
    _shield_from_lease_loss()
    try:
        scheduled = runtime.flow_run.scheduled_start_time
        moment = calendar.reference_time(now(), scheduled)
        calendar.check_schedule(market, tickers, moment, scheduled)
        names, span = check_capture(tickers, duration, until, moment, **settings)
        report, folder = record(names, span, settings)
    except MarketClosed as closed:
        return Completed(name="Skipped", message=str(closed))
    except StocktraceError as error:
        return Failed(message=str(error))
    if report.state == "failed":
        return Failed(message=f"Session {report.session}: {report.reason}")
    if report.upload_error:
        return Failed(message=f"Session {report.session}: {report.upload_error}")
    if report.state == "interrupted":
        return Cancelled(message=f"Session {report.session}: {report.reason}")
    result = {
        "session": report.session,
        "state": report.state,
        "reason": report.reason,
        "books": msgspec.to_builtins(report.books),
        "data_dir": folder,
    }
    return Completed(message=report_line(report), data=result)


@task(name="capture", task_run_name="capture", retries=0, persist_result=False)
def record(
    tickers: tuple[str, ...], span: CaptureSpan, settings: dict[str, str | None]
) -> tuple[SessionReport, str]:
    """Capture; return the report and the data folder.

    The settings are loaded here: as a parameter they would contain the API key.
    """
    loaded = Settings.load(**settings)
    layout, control, lease = Layout(loaded.data_dir), CaptureControl(), KeyLease(loaded)
    commands = TickerCommands(control)
    with (
        contextlib.closing(lease),
        ProgressReporter(layout, tickers, control, [commands.outage, lease.outage]) as progress,
        commands,
    ):
        report = api.capture(
            tickers,
            duration=span.duration,
            until=span.until,
            settings=loaded,
            publisher=WindowConversion,
            on_status=progress.on_status,
            control=control,
            guard=lease,
        )
    return report, str(layout.root.resolve())


@task(
    name="convert",
    task_run_name="convert {window}",
    retries=2,
    retry_delay_seconds=[1, 5],
    persist_result=False,
)
def convert(data_dir: str, session: str, window: str, *, whole: bool, lake: str) -> PublishedWindow:
    """Publish a rolled window as Parquet. Running it again changes nothing."""
    layout = Layout.from_settings(Settings.load(data_dir=data_dir, lake=lake))
    return publish_window(layout, WindowId(session, window), whole=whole)


class WindowConversion:
    """A task of the flow run that converts a window; if Prefect fails, ``result`` converts it."""

    def __init__(self, layout: Layout, window: WindowId, *, whole: bool) -> None:
        self._layout, self._window, self._whole = layout, window, whole
        self._future: PrefectFuture[PublishedWindow] | None = None
        try:
            self._future = convert.submit(
                str(layout.root), window.session, window.window, whole=whole, lake=layout.lake
            )
        except Exception as error:  # noqa: BLE001 - the window is published without Prefect
            self._warn(error)

    def done(self) -> bool:
        """Return whether the task has ended; asks its thread, never the server."""
        future = self._future
        return not isinstance(future, PrefectWrappedFuture) or bool(future.wrapped_future.done())

    def result(self) -> PublishedWindow:
        """Wait for the window, or raise why it cannot be published."""
        if self._future is not None:
            try:
                return self._future.result()
            except StocktraceError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                self._warn(error)
        return publish_window(self._layout, self._window, whole=self._whole)

    def _warn(self, error: Exception) -> None:
        window = self._window.window
        log.warning("Prefect could not convert window %s (%s): it is done without", window, error)


def _log_to_flow_run() -> None:
    """Send stocktrace's messages to the run, also where Prefect was imported before ``flows``."""
    logger = logging.getLogger("stocktrace")
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)
    for handler in logging.getLogger("prefect.extra").handlers:
        if isinstance(handler, APILogHandler) and handler not in logger.handlers:
            logger.addHandler(handler)


def _shield_from_lease_loss() -> None:
    """Let a capture continue when Prefect cannot renew its slot in the deployment's limit."""
    # Prefect would raise in the middle of the session if the server is away for some seconds at the
    # wrong moment (PrefectHQ/prefect#18802, #21064), and has no setting for it. Its own shield is
    # used until the end.
    context = FlowRunContext.get()
    state = context.flow_run.state if context and context.flow_run else None
    if state is None or state.state_details.deployment_concurrency_lease_id is None:
        return
    try:
        from prefect._internal.concurrency.cancellation import shield

        _SHIELD.enter_context(shield())
    except Exception as error:  # noqa: BLE001 - a private part of Prefect, which may change
        log.warning("no shield against an outage of Prefect's server: %s", error)
