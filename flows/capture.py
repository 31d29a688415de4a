"""The capture as a Prefect flow: a task that captures, and one a window that converts.

    python -m flows.capture AAPL MSFT --for 30m

The task that captures is called, not submitted, so that a cancel reaches it; it is never retried,
for a second capture is another one. Windows are converted while it goes on, and Prefect may come
and go: what is recorded does not depend on it. What a cancel leaves sealed, the next
``stocktrace convert`` publishes.
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
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

import msgspec
from prefect import flow, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.futures import PrefectFuture, PrefectWrappedFuture
from prefect.logging.handlers import APILogHandler
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows import console
from flows.fields import Duration, LakeUrl, Tickers, Until, Url
from flows.key_lease import KeyLease
from flows.markdown import report_line
from flows.progress import ProgressReporter
from flows.request import CaptureRequest
from flows.ticker_commands import TickerCommands
from stocktrace import market_hours
from stocktrace.end_time import CaptureSpan
from stocktrace.errors import MarketClosed, StocktraceError
from stocktrace.live import api
from stocktrace.live.control import CaptureControl
from stocktrace.live.publishing import PublishFuture
from stocktrace.record.publish import PublishedWindow, publish_window
from stocktrace.sessions.report import SessionReport
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId

log = logging.getLogger("stocktrace.flow")

# Never closed: see _outlast_lease.
_SHIELD = contextlib.ExitStack()


def run_name() -> str:
    """``AAPL MSFT NVDA +3 · 30m``; it must not fail, or the run would."""
    asked = runtime.flow_run.parameters or {}
    tickers = list(asked.get("tickers") or ())
    names = [*tickers[:3], *([f"+{len(tickers) - 3}"] if len(tickers) > 3 else [])]
    return f"{' '.join(map(str, names))} · {capture_seconds(asked)}"


def capture_seconds(asked: dict[str, Any]) -> str:
    """How long the run with these parameters goes on: ``30m``, ``until close``."""
    until = str(asked.get("until") or "").replace("_", " ")
    return str(asked.get("duration") or f"until {until}")


def now() -> datetime:
    """The time, which tests set."""
    return datetime.now(UTC)


@flow(
    name="stocktrace-capture",
    flow_run_name=run_name,
    persist_result=False,  # it would be a pickle; the report on disk is what stays
    # One conversion at a time: it must not compete with the feed for two cores.
    task_runner=cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=1)),
)
def capture(
    tickers: Tickers,
    duration: Duration | None = None,
    until: Until | None = None,
    market: market_hours.MarketHours = "always",
    wait_for_key: Duration | None = None,
    data_dir: str | None = None,
    url: Url | None = None,
    roll_interval: Duration | None = None,
    lake: LakeUrl | None = None,
) -> dict[str, Any] | State[Any]:
    """Record the trades of some tickers for a bounded time.

    The API key is read from FINNHUB_API_KEY where the flow runs, and is never a parameter. Give
    one of *duration* and *until*.

    Args:
        tickers: Finnhub symbols, such as AAPL, BINANCE:BTCUSDT or OANDA:EUR_USD.
        duration: How long: 30s, 10m, 1h30m. Leave it out if there is an end in *until*.
        until: When to end: close (of the US session, also on half days), extended close, 16:00
            (of the machine), 16:00 America/New_York, tomorrow 00:00 UTC, or an ISO time.
        market: The market whose hours the run keeps. When it is closed, or closes within a
            minute, the run ends at once as Skipped, whatever tickers there are.
        wait_for_key: How long to wait for a capture with the same key to end, and take over; else
            STOCKTRACE_WAIT_FOR_KEY, else not at all.
        data_dir: The folder for everything that is recorded; else STOCKTRACE_DATA_DIR, else
            data.
        url: The address of the trade WebSocket; else STOCKTRACE_URL, else Finnhub's.
        roll_interval: The length of a window, after which its trades are in Parquet; else
            STOCKTRACE_ROLL_INTERVAL, else 10m.
        lake: The store that published files are sent to, such as s3://bucket/prefix; else
            STOCKTRACE_LAKE, else none. Its credentials are never a parameter.

    Returns:
        Session, state, reason, books and data folder.
    """
    asked = {
        "wait_for_key": wait_for_key,
        "data_dir": data_dir,
        "url": url,
        "roll_interval": roll_interval,
        "lake": lake,
    }
    console.outlast()
    console.heed_hang_up()
    _ignore_messages()
    _survive_lease_loss()
    try:
        scheduled = runtime.flow_run.scheduled_start_time
        moment = market_hours.asked_at(now(), scheduled)
        market_hours.check_schedule(market, tickers, moment, scheduled)
        request = CaptureRequest.of(tickers, duration, until, moment, **asked)
        report, folder = record(request.tickers, request.span, asked)
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


@task(
    name="capture", task_run_name="capture", retries=0, cache_policy=NO_CACHE, persist_result=False
)
def record(
    tickers: tuple[str, ...], span: CaptureSpan, asked: dict[str, str | None]
) -> tuple[SessionReport, str]:
    """Capture; gives the report and the data folder.

    The settings are loaded here: with them, the key would be a parameter.
    """
    settings = Settings.load(**asked)
    layout = Layout(settings.data_dir)
    handle, slot = CaptureControl(), KeyLease(settings)
    steer = TickerCommands(handle)
    with (
        contextlib.closing(slot),
        ProgressReporter(layout, tickers, handle, [steer.outage, slot.outage]) as display,
        steer,
    ):
        report = api.capture(
            tickers,
            duration=span.duration,
            until=span.until,
            settings=settings,
            publisher=begin,
            on_status=display.on_status,
            control=handle,
            guard=slot,
        )
    return report, str(layout.root.resolve())


@task(
    name="convert",
    task_run_name="convert {window}",
    retries=2,
    retry_delay_seconds=[1, 5],
    cache_policy=NO_CACHE,
    persist_result=False,
)
def convert(data_dir: str, session: str, window: str, *, whole: bool, lake: str) -> PublishedWindow:
    """Publish a rolled window as Parquet; again changes nothing."""
    layout = Layout.from_settings(Settings.load(data_dir=data_dir, lake=lake))
    return publish_window(layout, WindowId(session, window), whole=whole)


def begin(layout: Layout, part: WindowId, *, whole: bool) -> PublishFuture:
    """Have a window converted by a task of the flow run; the capture's ``Publisher``."""
    future: PrefectFuture[PublishedWindow] | None = None
    try:
        future = convert.submit(
            str(layout.root), part.session, part.window, whole=whole, lake=layout.lake
        )
    except Exception as error:  # noqa: BLE001 - whatever it is, the window will be published
        _tell(part, error)
    return WindowConversion(layout, part, whole, future)


@dataclass(frozen=True, slots=True)
class WindowConversion:
    """What is to come of a window; without Prefect it is converted where it is asked for."""

    layout: Layout
    part: WindowId
    whole: bool
    future: PrefectFuture[PublishedWindow] | None

    def done(self) -> bool:
        """Whether the task has ended; asks its thread, never the server."""
        future = self.future
        return not isinstance(future, PrefectWrappedFuture) or bool(future.wrapped_future.done())

    def result(self) -> PublishedWindow:
        """Wait for it, or raise why the window cannot be published."""
        if self.future is not None:
            try:
                return self.future.result()
            except StocktraceError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                _tell(self.part, error)
        return publish_window(self.layout, self.part, whole=self.whole)


def _tell(part: WindowId, error: Exception) -> None:
    log.warning("Prefect could not convert window %s (%s): it is done without", part.window, error)


def _ignore_messages() -> None:
    """The core's messages belong to the run, also where Prefect was imported before us."""
    core = logging.getLogger("stocktrace")
    if core.level == logging.NOTSET:
        core.setLevel(logging.INFO)
    for handler in logging.getLogger("prefect.extra").handlers:
        if isinstance(handler, APILogHandler) and handler not in core.handlers:
            core.addHandler(handler)


def _survive_lease_loss() -> None:
    """Let a capture go on when Prefect cannot renew its place in the deployment's limit.

    It would raise in the midst of the session if the server is away for some seconds at the wrong
    moment (PrefectHQ/prefect#18802, #21064), and there is no setting. The shield is meant for
    that, and stays up to the end: such a process runs one flow and no other.
    """
    context = FlowRunContext.get()
    state = context.flow_run.state if context and context.flow_run else None
    if state is None or state.state_details.deployment_concurrency_lease_id is None:
        return
    try:
        from prefect._internal.concurrency.cancellation import shield

        _SHIELD.enter_context(shield())
    except Exception as error:  # noqa: BLE001 - it is not ours, and may look different one day
        log.warning("no shield against an outage of Prefect's server: %s", error)
