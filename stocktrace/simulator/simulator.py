"""The simulated Finnhub: its thread, and what a test or a command can see and do."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Self

from websockets.asyncio.server import serve as serve_websockets

from stocktrace.clock import Deadline
from stocktrace.errors import SettingsError, StocktraceError, describe, usage_or
from stocktrace.simulator.client_link import SimulatedConnection
from stocktrace.simulator.faults import Fault, FaultPlan
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.settings import HOST, SimulatorSettings
from stocktrace.simulator.sources import FrameSource, Player
from stocktrace.text import count_of

_log = logging.getLogger("stocktrace.simulator")
# At its lower levels the library logs the request line, which holds the key; at the higher ones
# what faults do on purpose. A real error ends the simulator and is raised.
_SILENT = logging.getLogger("stocktrace.simulator.websockets")
_SILENT.setLevel(logging.CRITICAL + 1)

# A client that does not answer a close frame is disconnected after this many seconds.
_CLOSE_TIMEOUT = 1.0
# More than the close frame's, its answer's and the thread's own time, in seconds.
_STOP_TIMEOUT = 10.0


class Simulator:
    """A simulated Finnhub that plays ``source`` on ``ws://127.0.0.1:PORT/?token=KEY``.

    If its settings have ``rest``, ``http://127.0.0.1:PORT/api/v1/`` serves what was played, and
    ``history``: frames that count as played before. With ``tls`` it is ``wss`` and ``https``.

    It listens between ``start`` and ``stop``, or as a context manager. Its methods may be called
    from any thread but its own. Its thread writes the attributes, any thread may read them. An
    exception in its thread ends it, and is raised again, chained, by ``stop``, ``check`` and every
    method that waits or acts.
    """

    def __init__(
        self,
        source: FrameSource,
        settings: SimulatorSettings | None = None,
        faults: Iterable[Fault] = (),
        history: Iterable[bytes] = (),
    ) -> None:
        self.source = source
        self.settings = settings or SimulatorSettings()
        #: Set while it listens.
        self.started = threading.Event()
        #: Set when the source was played to its end; connections stay open, with heartbeats.
        self.finished = threading.Event()
        self.port = 0
        self._history = history
        self._faults = FaultPlan(faults, tls=self.settings.tls is not None)
        self._changed = threading.Condition()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self._gateway: Gateway
        self._thread: threading.Thread | None = None

    # --- starting and stopping ---------------------------------------------------------------

    def start(self) -> Self:
        """Listen, in a new thread; a second call has no effect.

        Raises:
            SettingsError: the port is in use, or the source has a wrong setting.
            TapeError: the source has no tape to play.
        """
        if self._thread is not None:
            return self
        self.source.check()
        try:
            listener = socket.create_server((HOST, self.settings.port), backlog=128)
        except OSError as error:
            raise usage_or(StocktraceError, error, SettingsError)(
                f"The simulator cannot listen on port {self.settings.port}: {describe(error)}."
            ) from error
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._gateway = Gateway(self.settings, self._faults, self._notify, self._history)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="stocktrace-simulator"
        )
        self._thread.start()
        self.started.set()
        return self

    def stop(self) -> None:
        """Close every connection (1001) and end the thread; a second call has no effect.

        Raises:
            StocktraceError: the simulator had failed before; the reason is the cause.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread failed
            self._loop.call_soon_threadsafe(self._gateway.close)
        thread.join(_STOP_TIMEOUT)
        self.check()
        if thread.is_alive():
            raise StocktraceError(f"The simulator did not stop within {_STOP_TIMEOUT:.0f} s.")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._listen(listener))
        except BaseException as error:  # noqa: BLE001 - raised again by check, in the caller
            self._failure = self._failure or error
        finally:
            listener.close()
            self._notify()

    async def _listen(self, listener: socket.socket) -> None:
        self._loop.set_exception_handler(self._handle_loop_error)
        server = serve_websockets(
            self._end_on_error()(self._gateway.serve),
            sock=listener,
            ssl=self._gateway.tls,
            process_request=self._end_on_error()(self._gateway.answer_request),
            process_response=self._gateway.count_handshake,
            compression=None,  # FINNHUB.md: not offered
            open_timeout=None,  # a fault may delay a handshake for any time
            ping_interval=None,  # Finnhub's heartbeat is a text frame
            close_timeout=_CLOSE_TIMEOUT,
            max_queue=None,  # the library would resume reading where a fault stopped it
            logger=_SILENT,
        )
        player = Player(self.source, self._gateway, self.finished)
        playing = asyncio.create_task(self._end_on_error()(player.play)())
        async with server:
            await self._gateway.closing.wait()
            playing.cancel()

    @contextlib.asynccontextmanager
    async def _end_on_error(self) -> AsyncIterator[None]:
        try:
            yield
        except Exception as error:
            self._fail(error)
            raise

    def _handle_loop_error(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):  # a client that disconnected
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self._gateway.close()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def check(self) -> None:
        """Raise the exception that ended the simulator, if there was one.

        Raises:
            StocktraceError: the simulator failed; the reason is the cause.
        """
        if self._failure is not None:
            raise StocktraceError(f"The simulator failed: {self._failure}") from self._failure

    def wait_for(self, predicate: Callable[[Simulator], bool], timeout: float = 5.0) -> None:
        """Wait until ``predicate`` is true; it is called whenever something was sent or changed.

        Raises:
            TimeoutError: it was not within ``timeout`` seconds; the text describes the simulator.
            StocktraceError: the simulator failed.
        """
        deadline = Deadline.after(timeout)
        with self._changed:
            while not predicate(self):
                self.check()
                if not self._changed.wait(deadline.remaining()) and deadline.passed():
                    raise TimeoutError(f"condition not met within {timeout} s: {self}")

    # --- what there is to see ----------------------------------------------------------------

    def __repr__(self) -> str:
        if not self.port:
            return "<Simulator, not started>"
        return (
            f"<Simulator {self.url}: {count_of(self.dials, 'dial')}, "
            f"{count_of(self.connections_made, 'connection')}, "
            f"{count_of(len(self.subscriptions), 'subscription')}, "
            f"{count_of(self.sent_trades, 'trade')} sent>"
        )

    @property
    def url(self) -> str:
        """Its address, without the key."""
        return f"{'ws' if self.settings.tls is None else 'wss'}://{HOST}:{self.port}"

    @property
    def rest_requests(self) -> int:
        """Number of requests to REST, refused ones too."""
        return self._gateway.rest.requests if self._gateway.rest is not None else 0

    @property
    def dials(self) -> int:
        """Number of handshakes that clients began, refused ones too."""
        return self._gateway.dials

    @property
    def connections_made(self) -> int:
        """Number of handshakes that succeeded."""
        return self._gateway.connections_made

    @property
    def connections(self) -> tuple[SimulatedConnection, ...]:
        """The open connections in their order; with ``keep`` also those that ended."""
        return tuple(self._gateway.records)

    @property
    def open_connections(self) -> int:
        """Number of open connections."""
        return len(self._gateway.links)

    @property
    def subscriptions(self) -> tuple[str, ...]:
        """The symbols that open connections are subscribed to, in the order of subscription."""
        return self._gateway.tickers

    @property
    def sent_trades(self) -> int:
        """Number of trades sent over all connections, ended ones too."""
        return self._gateway.totals.sent_trades

    @property
    def sent_frames(self) -> int:
        """Number of frames sent over all connections, heartbeats and ended connections too."""
        return self._gateway.totals.sent_frames

    # --- what there is to do -----------------------------------------------------------------

    def act(self, action: Callable[[Gateway], None]) -> None:
        """Run ``action`` in the simulator's thread and wait until it has run."""

        async def run() -> None:
            action(self._gateway)

        self.check()
        asyncio.run_coroutine_threadsafe(run(), self._loop).result(_STOP_TIMEOUT)
        self._notify()

    def inject(self, fault: Fault) -> None:
        """Plan a fault; without a delay it strikes an open connection at once."""
        self.act(lambda gateway: gateway.plan_fault(fault))

    def clear_faults(self) -> None:
        """Remove the faults that are still to come."""
        self.act(lambda gateway: gateway.faults.clear())

    def drop_all(self, code: int | None = None) -> None:
        """End every connection: TCP alone, or with a close frame that has ``code``."""

        def drop(gateway: Gateway) -> None:
            for link in list(gateway.links):
                link.drop() if code is None else link.close(code)

        self.act(drop)

    def send_raw(self, frame: str | bytes, *, binary: bool = False) -> None:
        """Send any text frame, broken UTF-8 too, or a binary one, to every connection."""
        raw = frame.encode() if isinstance(frame, str) else frame

        def send(gateway: Gateway) -> None:
            for link in gateway.links:
                link.send([raw], binary=binary)

        self.act(send)

    def mute(self) -> None:
        """Send only heartbeats on every connection; what is played is lost."""
        self.act(lambda gateway: gateway.set_muted(muted=True))

    def unmute(self) -> None:
        """Send trades again, from where the play is now."""
        self.act(lambda gateway: gateway.set_muted(muted=False))


def run_simulator(simulator: Simulator, stop: threading.Event | None = None) -> None:
    """Run a simulator until ``stop`` is set or the user interrupts; for a command line.

    Raises:
        StocktraceError: it could not start, or failed.
    """
    stop, reported = stop or threading.Event(), False
    with simulator:
        while not stop.wait(0.5):  # seconds until a failure, or the end of the play, is noticed
            simulator.check()
            if simulator.finished.is_set() and not reported:
                reported = True
                _log.info(
                    "everything was played, %s. Connections stay open with heartbeats only. "
                    "Press Ctrl-C to stop the simulator.",
                    f"{count_of(simulator.sent_trades, 'trade')} sent"
                    if simulator.sent_trades
                    else "but no trade was sent: no client was subscribed to its tickers",
                )
