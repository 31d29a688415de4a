"""What a running capture shows in the terminal; plain lines where there is none."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    from rich.console import RenderableType

    from stocktrace.run import Status

Mode = Literal["auto", "live", "log", "none"]

LOG_EVERY_S = 30.0
# The rate is of the last so many looks, half a second apart.
_RATE_LOOKS = 10
_BUSIEST = 8

log = logging.getLogger(__name__)


class Rate:
    """Trades a second over the last few looks."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=_RATE_LOOKS)

    def __call__(self, status: Status) -> float:
        """Take a look; the rate."""
        self._looks.append((status.elapsed_s, status.trades))
        (begin, before), (end, after) = self._looks[0], self._looks[-1]
        return (after - before) / (end - begin) if end > begin else 0.0


class Lines:
    """One key=value line now and then, for logs."""

    def __init__(self, every_s: float = LOG_EVERY_S) -> None:
        self._every_s = every_s
        self._next = every_s
        self._rate = Rate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def __call__(self, status: Status) -> None:
        """Log a line if it is time."""
        rate = self._rate(status)
        if status.elapsed_s >= self._next:
            self._next += self._every_s
            log.info(
                "connected=%s elapsed=%s left=%s trades=%d rate=%.0f/s lag=%.0fms waiting=%d "
                "reconnects=%d",
                "yes" if status.connected else "no",
                clock(status.elapsed_s),
                clock(status.left_s),
                status.trades,
                rate,
                status.lag_ms,
                status.backlog,
                status.reconnects,
            )


class Live:
    """A few lines that stay in place, on stderr; gone when the capture ends."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.logging import RichHandler

        self._console = Console(stderr=True)
        self._live = RichLive(console=self._console, transient=True, auto_refresh=False)
        self._handler = RichHandler(
            console=self._console, show_path=False, show_level=False, log_time_format="%H:%M:%S"
        )
        self._rate = Rate()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        # Messages go above the live lines, not through them.
        root = logging.getLogger()
        before = root.handlers[:]
        root.handlers[:] = [self._handler]
        self._stack.callback(root.handlers.__setitem__, slice(None), before)
        self._stack.enter_context(self._live)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def __call__(self, status: Status) -> None:
        """Draw."""
        self._live.update(_picture(status, self._rate(status)), refresh=True)


def _picture(status: Status, rate: float) -> RenderableType:
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    state = ("● connected", "green") if status.connected else ("○ not connected", "yellow")
    whole = status.elapsed_s + status.left_s
    head = Table.grid(padding=(0, 2))
    head.add_row(
        Text(*state),
        Text(f"{len(status.tickers)} tickers"),
        Text(f"session {status.session}", "dim"),
        ProgressBar(whole, status.elapsed_s, width=24),
        Text(f"{clock(status.elapsed_s)} elapsed, {clock(status.left_s)} left"),
    )
    counts = Text(
        f"{status.trades:,} trades · {rate:,.0f}/s · lag {status.lag_ms:,.0f} ms · "
        f"{status.backlog:,} waiting · "
        f"{status.reconnects} reconnects"
    )
    busiest = sorted(status.per_ticker.items(), key=lambda item: -item[1])[:_BUSIEST]
    names = Text("  ".join(f"{ticker} {count:,}" for ticker, count in busiest), "cyan")
    return Group(head, counts, names)


def progress(mode: Mode) -> Live | Lines | contextlib.nullcontext[None]:
    """What ``--progress`` asks for; ``auto`` is live on a terminal, else lines."""
    if mode == "auto":
        mode = "live" if sys.stderr.isatty() else "log"
    if mode == "live":
        return Live()
    return Lines() if mode == "log" else contextlib.nullcontext()


def clock(seconds: float) -> str:
    """``01:23:45``."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"
