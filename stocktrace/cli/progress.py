"""The progress of a capture: live in a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from stocktrace.cli.streams import stream_of
from stocktrace.errors import UsageError
from stocktrace.text import count_of, format_clock, printable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from stocktrace.sessions.status import CaptureStatus

ProgressMode = Literal["auto", "live", "log", "none"]
ShowStatus: TypeAlias = "Callable[[CaptureStatus], None]"

LOG_EVERY_S = 30.0
# The end takes seconds, during which somebody waits.
END_EVERY_S = 2.0
# The rate is measured over the last so many statuses, half a second apart.
_RATE_STATUSES = 10
_BUSIEST = 8

log = logging.getLogger(__name__)


class TickerRates:
    """Trades per second over the last few statuses: of all tickers, and of each."""

    def __init__(self) -> None:
        self._statuses: deque[CaptureStatus] = deque(maxlen=_RATE_STATUSES)

    def add(self, status: CaptureStatus) -> float:
        """Add a status and return the rate of all tickers."""
        self._statuses.append(status)
        return self._rate(lambda status: status.trades)

    def of_ticker(self, name: str) -> float:
        """Return the rate of one ticker."""
        return self._rate(lambda status: status.per_ticker.get(name, 0))

    def _rate(self, count: Callable[[CaptureStatus], int]) -> float:
        first, last = self._statuses[0], self._statuses[-1]
        seconds = last.elapsed_s - first.elapsed_s
        return (count(last) - count(first)) / seconds if seconds > 0 else 0.0


class ProgressLines:
    """Logs a line of key=value pairs now and then."""

    def __init__(self, every_s: float = LOG_EVERY_S) -> None:
        self._every_s = every_s
        self._next = every_s
        self._next_of_end = 0.0
        self._rates = TickerRates()

    def __call__(self, status: CaptureStatus) -> None:
        """Log a line if it is time."""
        rate = self._rates.add(status)
        if status.state == "ending":
            self._log_end(status)
        elif status.elapsed_s >= self._next:
            self._next = status.elapsed_s - status.elapsed_s % self._every_s + self._every_s
            log.info(
                "%s elapsed=%s left=%s trades=%d rate=%.0f/s lag=%.0fms waiting=%d "
                "quarantined=%d reconnects=%d gaps=%d unpublished=%d",
                _connection(status),
                format_clock(status.elapsed_s),
                format_clock(status.remaining_s),
                status.trades,
                rate,
                status.lag_ms,
                status.backlog,
                status.quarantined,
                status.reconnects,
                status.all_gaps,
                status.unpublished,
            )

    def _log_end(self, status: CaptureStatus) -> None:
        if status.progress is not None and status.elapsed_s >= self._next_of_end:
            self._next_of_end = status.elapsed_s + END_EVERY_S
            log.info("ending: %s", _describe_end(status))


def _connection(status: CaptureStatus) -> str:
    """Return how the connection is, as pairs."""
    words = ["connected=yes" if status.connected else "connected=no"]
    if status.open_gap is not None:
        words.append(f"gap={status.open_gap.seconds:.0f}s")
    if status.retry is not None:
        words.append(f"attempt={status.retry.attempt}")
    if status.feed_lag_s:
        words.append(f"behind={status.feed_lag_s:.0f}s")
    return " ".join(words)


def _describe_end(status: CaptureStatus) -> str:
    """Return how far the end of a capture has come."""
    words = str(status.progress or "writing Parquet")
    if status.unpublished < 2:
        return words
    return f"{words}; {status.unpublished:,} windows wait to be published"


@contextlib.contextmanager
def live_display() -> Iterator[ShowStatus]:
    """Keep a few lines in place on stderr, which are removed when the capture ends."""
    from rich.console import Console
    from rich.highlighter import NullHighlighter
    from rich.live import Live
    from rich.logging import RichHandler

    console = Console(stderr=True)
    handler = RichHandler(
        console=console,
        show_path=False,
        show_level=False,
        log_time_format="%H:%M:%S",
        highlighter=NullHighlighter(),
    )
    rates = TickerRates()
    # Log lines are printed above the live lines, not through them.
    root = logging.getLogger()
    before, root.handlers[:] = root.handlers[:], [handler]
    try:
        with Live(console=console, transient=True, auto_refresh=False) as live:

            def draw(status: CaptureStatus) -> None:
                rate = rates.add(status)
                stream = stream_of(sys.stderr)
                # The terminal may not have finished what was drawn before.
                if stream is None or not stream.is_behind:
                    live.update(render_status(status, rate, rates), refresh=True)

            yield draw
    finally:
        root.handlers[:] = before


def render_status(status: CaptureStatus, rate: float, rates: TickerRates) -> RenderableType:
    """Return the state of a capture as a few lines of any width."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble(_state(status), (f"  session {status.session}", "dim"), no_wrap=True)
    time = Table.grid(padding=(0, 2))
    bar = ProgressBar(
        status.elapsed_s + status.remaining_s, status.elapsed_s, width=24, complete_style="green"
    )
    time.add_row(
        bar, f"{format_clock(status.elapsed_s)} elapsed, {format_clock(status.remaining_s)} left"
    )
    counts = [
        count_of(status.trades, "trade"),
        f"{rate:,.0f}/s",
        f"lag {status.lag_ms:,.0f} ms",
        f"{status.backlog:,} waiting",
        f"{status.quarantined:,} quarantined",
        status.gap_summary,
    ]
    if status.unpublished:
        counts.append(f"{count_of(status.unpublished, 'window')} to publish")
    tickers = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    tickers.add_column("ticker", style="cyan", no_wrap=True)
    for name in ("trades", "trades/s", "waiting", "quarantined"):
        tickers.add_column(name, justify="right", no_wrap=True)
    trades = {**dict.fromkeys(status.tickers, 0), **status.per_ticker}
    for name in sorted(trades, key=lambda name: -trades[name])[:_BUSIEST]:
        tickers.add_row(
            Text(name),
            f"{trades[name]:,}",
            f"{rates.of_ticker(name):,.0f}",
            f"{status.queued.get(name, 0):,}",
            f"{status.quarantined_by_ticker.get(name, 0):,}",
        )
    return Group(head, time, Text(" · ".join(counts)), tickers)


def _state(status: CaptureStatus) -> Text:
    """Return what the capture is doing; if it is not connected, why."""
    from rich.text import Text

    if status.state == "connected":
        style = "yellow" if status.feed_lag_s else "green"
        return Text(f"● {status.connection}, {count_of(len(status.tickers), 'ticker')}", style)
    if status.state in ("ending", "ended"):
        return Text(f"● ending: {_describe_end(status)}", "cyan")
    words = f"○ {status.connection}"
    if status.retry is not None and status.written_at is not None:
        wait_s = max(0.0, (status.retry.at - status.written_at).total_seconds())
        words += f" in {wait_s:.0f} s ({printable(status.retry.reason)})"
    return Text(words, "yellow")


def until_it_fails(show: ShowStatus) -> ShowStatus:
    """Return ``show``, which after an error is not called again: the capture must go on."""
    failed = False

    def show_unless_failed(status: CaptureStatus) -> None:
        nonlocal failed
        try:
            if not failed:
                show(status)
        except Exception as error:  # noqa: BLE001 - no error may stop the capture
            failed = True
            text = f"{type(error).__name__}: {error}"
            log.warning("Cannot show the progress (%s). The capture continues.", text)

    return show_unless_failed


def make_progress(mode: ProgressMode) -> contextlib.AbstractContextManager[ShowStatus]:
    """Return the display for ``--progress``; ``auto`` is live in a terminal, and otherwise lines.

    ``live`` without a terminal that supports it is a ``UsageError``.
    """
    if (
        mode in ("auto", "live")
        and sys.stderr.isatty()
        and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
    ):
        return live_display()
    if mode == "live":
        raise UsageError(
            "Standard error is not a terminal that supports --progress live. Use --progress log."
        )
    return contextlib.nullcontext((lambda _: None) if mode == "none" else ProgressLines())
