"""The exchange's door, within the event loop: handshakes, messages, heartbeats, who listens."""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Callable, Iterable, Iterator
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from stocktrace.simulator.client_link import ClientLink
from stocktrace.simulator.connection import SimulatedConnection
from stocktrace.simulator.faults import Fault, FaultPlan
from stocktrace.simulator.protocol import PING, Subscriptions
from stocktrace.simulator.rest import PREFIX, RestApi, phrase
from stocktrace.simulator.settings import SimulatorSettings
from stocktrace.simulator.ticks import TickHistory
from stocktrace.simulator.waiting import wait_first

_log = logging.getLogger("stocktrace.simulator")
_REFUSAL_TEXTS = {401: "Invalid API key", 429: "API limit reached. Please try again later."}


class Gateway:
    """All connections of one exchange. ``notify`` is called whenever something here changed."""

    def __init__(
        self,
        settings: SimulatorSettings,
        faults: FaultPlan,
        notify: Callable[[], None],
        history: Iterable[bytes] = (),
    ) -> None:
        self.settings = settings
        #: What was played, and who tells of it; none without REST.
        self.ticks: TickHistory | None = None
        self.rest: RestApi | None = None
        if settings.rest is not None:
            self.ticks = TickHistory(settings.rest, history)
            self.rest = RestApi(settings.rest, settings.key, self.ticks)
        self.faults = faults
        self.notify = notify
        self.links: list[ClientLink] = []
        self.records: list[SimulatedConnection] = []
        self.dials = 0
        self.connections_made = 0
        self.totals = SimulatedConnection(0)  # of all connections that ever were
        self.tickers: tuple[str, ...] = ()
        self.muted = False
        self._opened = 0
        self.leaving = asyncio.Event()
        self._changed = asyncio.Event()
        self._changed_at = 0.0
        self._random = Random(settings.seed)

    async def handshake(self, peer: ServerConnection, request: Request) -> Response | None:
        """Judge a dial: ``None`` lets it in. A request to REST is answered instead."""
        if self.rest is not None and request.path.startswith(PREFIX):
            return self._rest(self.rest, peer, request)
        self.dials += 1
        self.notify()
        for fault in self.faults.at_handshake(self.dials):
            _log.info("dial %d: %s", self.dials, fault.kind)
            if fault.kind == "status":
                return _refusal(fault.status)
            await self._pause(peer, fault.by if fault.kind == "handshake-delay" else None)
        tokens = parse_qs(urlsplit(request.path).query).get("token", [])
        if tokens != [self.settings.key]:
            return _refusal(401)
        if self.links and self.settings.second_connection == "refused-429":
            return _refusal(429)
        return None

    def _rest(self, rest: RestApi, peer: ServerConnection, request: Request) -> Response:
        answer = rest.answer(request.path, request.headers, asyncio.get_running_loop().time())
        self.notify()
        if answer is None:
            peer.transport.abort()
            return _refusal(500)  # nobody sees it
        return answer

    def send_answer(self, _peer: ServerConnection, _request: Request, response: Response) -> None:
        """Count a dial that is let in, before the client knows."""
        self.connections_made += response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS

    async def _pause(self, peer: ServerConnection, seconds: float | None) -> None:
        """Let time pass, unless the client or the exchange leaves."""
        await wait_first(peer.wait_closed(), self.leaving.wait(), within=seconds)

    async def serve(self, peer: ServerConnection) -> None:
        """One connection, from its handshake to its end."""
        second = self.links and self.settings.second_connection
        if second in ("kills-old", "kills-both"):
            for old in self.links:
                old.drop()
        link = self._open(peer)
        if second == "kills-both":
            link.drop()
        heartbeat = asyncio.create_task(self._heartbeat(link))
        try:
            for fault in self.faults.on_connection(link.record.number):
                link.set_faults(fault)
            async for message in peer:
                self._receive(link, message)
        except ConnectionClosed:
            pass  # how it ended does not matter to an exchange
        finally:
            heartbeat.cancel()
            self._end(link)

    def _open(self, peer: ServerConnection) -> ClientLink:
        self._opened += 1
        settings = self.settings
        subscriptions = Subscriptions(
            settings.symbol_limit, settings.unknown_symbols, settings.names_invalid_symbol
        )
        record = SimulatedConnection(self._opened)
        link = ClientLink(peer, record, self.totals, subscriptions, self.faults, keep=settings.keep)
        link.muted = self.muted
        self.links.append(link)
        self.records.append(record)
        self.notify()
        return link

    def _end(self, link: ClientLink) -> None:
        link.end()
        self.links.remove(link)
        if not self.settings.keep:
            self.records.remove(link.record)
        self._subscriptions_changed()

    def _receive(self, link: ClientLink, message: str | bytes) -> None:
        answer = link.subscriptions.receive(message)
        link.record.subscriptions = tuple(link.subscriptions.symbols)
        if answer is not None:
            link.send([answer])
        self._subscriptions_changed()

    def _subscriptions_changed(self) -> None:
        symbols = [symbol for link in self.links for symbol in link.subscriptions.symbols]
        self.tickers = tuple(dict.fromkeys(symbols))
        self._changed_at = asyncio.get_running_loop().time()
        self._changed.set()
        self.notify()

    async def _heartbeat(self, link: ClientLink) -> None:
        period = self.settings.ping_period
        if not period:
            return
        await asyncio.sleep(self._random.random() * period)
        while True:
            link.send([PING])
            self.notify()
            await asyncio.sleep(period)

    def subscribers(self) -> Iterator[ClientLink]:
        """The connections that take what is played."""
        return (link for link in self.links if link.listening)

    async def wait_settled(self) -> None:
        """Wait until somebody listens and subscriptions have been quiet for long enough."""
        while True:
            self._changed.clear()
            if not any(self.subscribers()):
                await self._changed.wait()
                continue
            quiet = asyncio.get_running_loop().time() - self._changed_at
            left = (self.settings.settle or 0.0) - quiet
            if left <= 0:
                return
            await asyncio.sleep(left)

    def inject(self, fault: Fault) -> None:
        """Plan a fault, for connections that live as well."""
        self.faults.add(fault)
        for link in [] if fault.at_handshake else list(self.links):
            if link.record.number > fault.after_connections:
                link.set_faults(fault)

    def remove(self) -> None:
        """The exchange closes: end what an orderly close would wait for."""
        self.leaving.set()
        for link in self.links:
            link.abort()


def _refusal(status: int) -> Response:
    """An answer to a dial that is no 101."""
    body = _REFUSAL_TEXTS.get(status, phrase(status)).encode()
    headers = Headers(
        {"Connection": "close", "Content-Type": "text/plain", "Content-Length": str(len(body))}
    )
    return Response(status, phrase(status), headers, body)
