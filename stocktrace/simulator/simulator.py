"""The simulated Finnhub from outside: what there is to see of it, and to do to it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from stocktrace.clock import Deadline
from stocktrace.simulator.connection import SimulatedConnection
from stocktrace.simulator.faults import Fault
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.server import SimulatorThread
from stocktrace.simulator.settings import HOST
from stocktrace.text import count_of

_log = logging.getLogger("stocktrace.simulator")


class Simulator(SimulatorThread):
    """A simulated Finnhub that plays ``source`` on ``ws://127.0.0.1:PORT/?token=KEY``.

    If its settings have ``rest``, what was played is told on ``http://127.0.0.1:PORT/api/v1/``.

    It listens between ``start`` and ``stop``, or as a context manager. Its methods may be called
    from any thread but its own; its attributes are counted there and read anywhere.
    """

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        if not self.port:
            return "<Exchange, not started>"
        return (
            f"<Exchange {self.url}: {count_of(self.dials, 'dial')}, "
            f"{count_of(self.connections_made, 'connection')}, "
            f"{count_of(len(self.subscriptions), 'subscription')}, "
            f"{count_of(self.sent_trades, 'trade')} sent>"
        )

    # What there is to see.

    @property
    def url(self) -> str:
        """Where it listens, without the key."""
        return f"ws://{HOST}:{self.port}"

    @property
    def rest_requests(self) -> int:
        """Requests to REST, refused ones too."""
        return self.gateway.rest.requests if self.gateway.rest is not None else 0

    @property
    def dials(self) -> int:
        """Handshakes asked for, refused ones too."""
        return self.gateway.dials

    @property
    def connections_made(self) -> int:
        """Handshakes that succeeded."""
        return self.gateway.connections_made

    @property
    def connections(self) -> tuple[SimulatedConnection, ...]:
        """The live connections, with ``keep`` those that ended too, in their order."""
        return tuple(self.gateway.records)

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self.gateway.links)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """What live connections are subscribed to, the first asked for first."""
        return self.gateway.tickers

    @property
    def sent_trades(self) -> int:
        """Trades sent, over all connections that ever were."""
        return self.gateway.totals.sent_trades

    @property
    def sent_frames(self) -> int:
        """Frames sent, heartbeats too, over all connections that ever were."""
        return self.gateway.totals.sent_frames

    # What there is to do to it.

    def inject(self, fault: Fault) -> None:
        """Plan a fault; with no delay it strikes a live connection at once."""
        self.act(lambda gateway: gateway.inject(fault))

    def clear_faults(self) -> None:
        """Forget the faults that are still to come."""
        self.act(lambda gateway: gateway.faults.clear())

    def drop_all(self, code: int | None = None) -> None:
        """End every connection: TCP alone, or with a close frame that says ``code``."""

        def drop(gateway: Gateway) -> None:
            for link in list(gateway.links):
                link.drop() if code is None else link.close(code)

        self.act(drop)

    def send_raw(self, frame: str | bytes, *, binary: bool = False) -> None:
        """Send any text frame, broken UTF-8 too, or a binary one, to every connection."""
        raw = frame.encode() if isinstance(frame, str) else frame

        def send(gateway: Gateway) -> None:
            for link in gateway.links:
                link.send_binary(raw) if binary else link.send([raw])

        self.act(send)

    def mute(self) -> None:
        """No more trades on any connection, only heartbeats; what is played is lost."""
        self._mute(muted=True)

    def unmute(self) -> None:
        """Trades again, from where the play is now."""
        self._mute(muted=False)

    def _mute(self, *, muted: bool) -> None:
        def mute(gateway: Gateway) -> None:
            gateway.muted = muted
            for link in gateway.links:
                link.muted = muted

        self.act(mute)

    def wait_for(self, predicate: Callable[[Simulator], bool], timeout: float = 5.0) -> None:
        """Wait until ``predicate`` holds; it is asked whenever something was sent or changed.

        Raises:
            TimeoutError: it did not within ``timeout`` seconds; the text says how things stand.
            StocktraceError: the exchange died.
        """
        deadline = Deadline.after(timeout)
        with self.news:
            while not predicate(self):
                self.check()
                if not self.news.wait(deadline.remaining()) and deadline.passed():
                    raise TimeoutError(f"still not so after {timeout} s: {self}")


def run_simulator(exchange: Simulator, stop: threading.Event | None = None) -> None:
    """Run an exchange until ``stop`` is set or the user interrupts; for a command line.

    Raises:
        StocktraceError: it could not start, or died.
    """
    stop, told = stop or threading.Event(), False
    with exchange:
        while not stop.wait(0.5):  # seconds until a death, or the end of the play, is noticed
            exchange.check()
            if exchange.finished.is_set() and not told:
                told = True
                _log.info(
                    "the recording is over, %s; connections stay open with heartbeats only, "
                    "Ctrl-C ends the exchange",
                    f"{count_of(exchange.sent_trades, 'trade')} were sent"
                    if exchange.sent_trades
                    else "and no trade was sent: nobody was subscribed to its tickers meanwhile",
                )
