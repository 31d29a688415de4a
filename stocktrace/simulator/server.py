"""The thread of the simulated Finnhub: starting, listening, stopping, and never dying alone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, ParamSpec, Self, TypeVar

from websockets.asyncio.server import serve as serve_websockets

from stocktrace.errors import SettingsError, StocktraceError, is_usage
from stocktrace.simulator.faults import Fault, FaultPlan
from stocktrace.simulator.gateway import Gateway
from stocktrace.simulator.player import Player
from stocktrace.simulator.settings import HOST, SimulatorSettings
from stocktrace.simulator.source import FrameSource

P = ParamSpec("P")
T = TypeVar("T")

# At its lower levels the library logs the request line, which holds the key; what it would tell
# at the higher ones is what faults do on purpose. What breaks here ends the exchange, loudly.
_SILENT = logging.getLogger("stocktrace.simulator.websockets")
_SILENT.setLevel(logging.CRITICAL + 1)

# A client that does not answer a close frame is cut off after this many seconds.
_CLOSE_TIMEOUT = 1.0
# More than the close frame's, its answer's and the thread's own time, in seconds.
_STOP_TIMEOUT = 10.0


class SimulatorThread:
    """The life of an exchange: its thread, its event loop, and what killed it.

    ``source``, ``settings`` and ``faults`` are those of ``Exchange``; ``history`` are frames that
    REST tells of as played before.
    """

    def __init__(
        self,
        source: FrameSource,
        settings: SimulatorSettings | None = None,
        faults: Iterable[Fault] = (),
        history: Iterable[bytes] = (),
    ) -> None:
        self.source = source
        self._history = history
        self.settings = settings or SimulatorSettings()
        #: Set when the source was played to its end; connections stay open, with heartbeats.
        self.finished = threading.Event()
        #: Set while it listens.
        self.started = threading.Event()
        self._faults = FaultPlan(faults)
        self.news = threading.Condition()
        self._failure: BaseException | None = None
        self._loop: asyncio.AbstractEventLoop
        self.gateway: Gateway
        self._thread: threading.Thread | None = None
        self.port = 0

    def start(self) -> Self:
        """Listen, in a new thread; once is enough, twice is harmless.

        Raises:
            SettingsError: the port is taken, or the source is set wrong.
            TapeError: there is no tape to play.
        """
        if self._thread is not None:
            return self
        self.source.check()
        try:
            listener = socket.create_server((HOST, self.settings.port), backlog=128)
        except OSError as error:
            kind = SettingsError if is_usage(error) else StocktraceError
            raise kind(
                f"The exchange cannot listen on port {self.settings.port}: {error.strerror}."
            ) from error
        self.port = listener.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self.gateway = Gateway(self.settings, self._faults, self._notify, self._history)
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="stocktrace-exchange"
        )
        self._thread.start()
        self.started.set()
        return self

    def stop(self) -> None:
        """Close every connection (1001) and end the thread; once is enough, twice is harmless.

        Raises:
            StocktraceError: the exchange died before; the reason is the cause.
        """
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: the thread died
            self._loop.call_soon_threadsafe(self.gateway.remove)
        thread.join(_STOP_TIMEOUT)
        self.check()
        if thread.is_alive():
            raise StocktraceError(f"The exchange did not stop within {_STOP_TIMEOUT:.0f} s.")

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
        self._loop.set_exception_handler(self._fail)
        server = serve_websockets(
            self._reporting_errors(self.gateway.serve),
            sock=listener,
            process_request=self._reporting_errors(self.gateway.handshake),
            process_response=self.gateway.send_answer,
            compression=None,  # FINNHUB.md: not offered
            open_timeout=None,  # how long a handshake takes is a fault's to say
            ping_interval=None,  # Finnhub's heartbeat is a text frame
            close_timeout=_CLOSE_TIMEOUT,
            max_queue=None,  # the library would resume reading where a fault stopped it
            logger=_SILENT,
        )
        play = asyncio.create_task(
            self._reporting_errors(Player(self.source, self.gateway, self.finished).play)()
        )
        async with server:
            await self.gateway.leaving.wait()
            play.cancel()

    def _reporting_errors(
        self, work: Callable[P, Coroutine[Any, Any, T]]
    ) -> Callable[P, Coroutine[Any, Any, T]]:
        """``work``, except that what it raises ends the exchange."""

        async def loud(*args: P.args, **kwargs: P.kwargs) -> T:
            try:
                return await work(*args, **kwargs)
            except Exception as error:
                self._stop_with(error)
                raise

        return loud

    def _fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is not None and not isinstance(error, OSError):  # a client that went away
            self._stop_with(error)

    def _stop_with(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.gateway.remove()
        self._notify()

    def check(self) -> None:
        """Raise what killed the exchange, if something did."""
        if self._failure is not None:
            raise StocktraceError(
                f"The simulated exchange died: {self._failure}"
            ) from self._failure

    def _notify(self) -> None:
        with self.news:
            self.news.notify_all()

    def act(self, act: Callable[[Gateway], None]) -> None:
        """Do something in the exchange's thread, and wait until it is done."""

        async def acting() -> None:
            act(self.gateway)

        self.check()
        asyncio.run_coroutine_threadsafe(acting(), self._loop).result(_STOP_TIMEOUT)
        self._notify()
