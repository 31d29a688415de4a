"""All connections of a simulator, in its event loop: handshakes, messages, heartbeats, faults."""

from __future__ import annotations

import asyncio
import http
import logging
import ssl
from collections.abc import Callable, Iterable, Iterator
from random import Random
from urllib.parse import parse_qs, urlsplit

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from stocktrace.simulator.client_link import ClientLink, SimulatedConnection, wait_first
from stocktrace.simulator.faults import Fault, FaultPlan
from stocktrace.simulator.protocol import PING, Subscriptions
from stocktrace.simulator.rest import PREFIX, RestApi, make_response, reason_phrase
from stocktrace.simulator.settings import SimulatorSettings
from stocktrace.simulator.tls import ServerContext

_log = logging.getLogger("stocktrace.simulator")
_REFUSAL_TEXTS = {401: "Invalid API key", 429: "API limit reached. Please try again later."}


class Gateway:
    """The connections of one simulator. ``notify`` is called whenever something changes here."""

    def __init__(
        self,
        settings: SimulatorSettings,
        faults: FaultPlan,
        notify: Callable[[], None],
        history: Iterable[bytes] = (),
    ) -> None:
        self.settings = settings
        self.rest = RestApi(settings.rest, settings.key, history) if settings.rest else None
        self.tls = ServerContext.make(settings.tls, self._next_version) if settings.tls else None
        self.faults = faults
        self.notify = notify
        self.links: list[ClientLink] = []
        self.records: list[SimulatedConnection] = []
        self.dials = 0
        self.connections_made = 0
        self.totals = SimulatedConnection(0)  # over all connections, ended ones too
        self.tickers: tuple[str, ...] = ()
        self.muted = False
        self.closing = asyncio.Event()
        self._opened = 0
        self._changed = asyncio.Event()
        self._changed_at = 0.0
        self._random = Random(settings.seed)

    def _next_version(self) -> ssl.TLSVersion:
        """Return the greatest version of TLS that the next connection may speak."""
        version = ssl.TLSVersion.MAXIMUM_SUPPORTED
        for fault in self.faults.take_for_dial(self.dials + 1, tls=True):
            _log.info("dial %d: %s", self.dials + 1, fault.kind)
            version = ssl.TLSVersion.TLSv1_2
        return version

    async def answer_request(self, peer: ServerConnection, request: Request) -> Response | None:
        """Accept a dial by ``None``, or refuse it. Answer a request to REST."""
        if self.rest is not None and request.path.startswith(PREFIX):
            return self._answer_rest(self.rest, peer, request)
        self.dials += 1
        self.notify()
        for fault in self.faults.take_for_dial(self.dials):
            _log.info("dial %d: %s", self.dials, fault.kind)
            if fault.kind == "status":
                return _refusal(fault.status)
            seconds = fault.delay_s if fault.kind == "handshake-delay" else None
            await wait_first(peer.wait_closed(), self.closing.wait(), within=seconds)
        tokens = parse_qs(urlsplit(request.path).query).get("token", [])
        if tokens != [self.settings.key]:
            return _refusal(401)
        if self.links and self.settings.second_connection == "refused-429":
            return _refusal(429)
        return None

    def _answer_rest(self, rest: RestApi, peer: ServerConnection, request: Request) -> Response:
        response = rest.answer(request.path, request.headers, asyncio.get_running_loop().time())
        self.notify()
        if response is None:
            peer.transport.abort()
            return _refusal(500)  # the client cannot see it
        return response

    def count_handshake(self, _peer: ServerConnection, _req: Request, response: Response) -> None:
        """Count an accepted dial, before the client knows."""
        self.connections_made += response.status_code == http.HTTPStatus.SWITCHING_PROTOCOLS

    async def serve(self, peer: ServerConnection) -> None:
        """Serve one connection, from its handshake to its end."""
        second = self.links and self.settings.second_connection
        if second in ("kills-old", "kills-both"):
            for link in self.links:
                link.drop()
        link = self._open_link(peer)
        if second == "kills-both":
            link.drop()
        heartbeat = asyncio.create_task(self._send_heartbeats(link))
        try:
            for fault in self.faults.for_connection(link.record.number):
                link.plan_fault(fault)
            async for message in peer:
                self._receive(link, message)
        except ConnectionClosed:
            pass  # how it ended does not matter here
        finally:
            heartbeat.cancel()
            link.mark_closed()
            self.links.remove(link)
            if not self.settings.keep:
                self.records.remove(link.record)
            self._update_subscriptions()

    def _open_link(self, peer: ServerConnection) -> ClientLink:
        self._opened += 1
        settings = self.settings
        subscriptions = Subscriptions(
            settings.symbol_limit,
            settings.unknown_symbols,
            settings.names_invalid_symbol,
            settings.resubscribe,
        )
        record = SimulatedConnection(self._opened)
        link = ClientLink(peer, record, self.totals, subscriptions, self.faults, keep=settings.keep)
        self.links.append(link)
        self.records.append(record)
        self.notify()
        return link

    def _receive(self, link: ClientLink, message: str | bytes) -> None:
        error = link.subscriptions.receive(message)
        link.record.subscriptions = tuple(link.subscriptions.symbols)
        if error is not None:
            link.send([error])
        self._update_subscriptions()

    def _update_subscriptions(self) -> None:
        symbols = [symbol for link in self.links for symbol in link.subscriptions.symbols]
        self.tickers = tuple(dict.fromkeys(symbols))
        self._changed_at = asyncio.get_running_loop().time()
        self._changed.set()
        self.notify()

    async def _send_heartbeats(self, link: ClientLink) -> None:
        period = self.settings.ping_period
        if not period:
            return
        await asyncio.sleep(self._random.random() * period)
        while True:
            link.send([PING])
            self.notify()
            await asyncio.sleep(period)

    def listeners(self) -> Iterator[ClientLink]:
        """Iterate over the connections that receive what is played."""
        return (link for link in self.links if link.listening)

    async def wait_settled(self) -> None:
        """Wait until a client listens and subscriptions have not changed for ``settle`` seconds."""
        while True:
            self._changed.clear()
            if not any(self.listeners()):
                await self._changed.wait()
                continue
            unchanged = asyncio.get_running_loop().time() - self._changed_at
            left = (self.settings.settle or 0.0) - unchanged
            if left <= 0:
                return
            await asyncio.sleep(left)

    def plan_fault(self, fault: Fault) -> None:
        """Plan a fault, also for open connections."""
        self.faults.add(fault)
        for link in [] if fault.is_handshake else list(self.links):
            if link.record.number > fault.after_connections:
                link.plan_fault(fault)

    def set_muted(self, *, muted: bool) -> None:
        """Lose what is played, or send it again."""
        self.muted = muted

    def close(self) -> None:
        """Close, and abort connections for which an orderly close would wait."""
        self.closing.set()
        for link in self.links:
            link.abort()


def _refusal(status: int) -> Response:
    """Return an answer to a dial other than 101."""
    text = _REFUSAL_TEXTS.get(status, reason_phrase(status))
    return make_response(status, text.encode(), "text/plain")
