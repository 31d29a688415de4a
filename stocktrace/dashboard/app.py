"""The web application: static files, the list of sessions, one stream per viewer. GET only."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stocktrace.dashboard.broadcast import Broadcast
from stocktrace.dashboard.chart import LENGTHS_S
from stocktrace.dashboard.session_view import SessionView
from stocktrace.sessions.catalog import read_session
from stocktrace.sessions.summary import SessionSummary
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session

STATIC = Path(__file__).with_name("static")
#: With other names a page of another site, whose name resolves to this machine, could read along.
HOSTS = ["127.0.0.1", "localhost"]
#: In an address: the newest session.
LATEST = "latest"
# More than a year of daily sessions; `stocktrace sessions` lists older ones.
MAX_SESSIONS = 500

_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
# Streams end at once; this is for a browser that does not read.
_SHUTDOWN_S = 2


class SessionList:
    """Lists sessions, newest first. The reports of ended ones are read once."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._ended: dict[tuple[str, int], SessionSummary] = {}

    def sessions(self) -> list[SessionSummary]:
        """Return the newest ``MAX_SESSIONS``."""
        names = [path.stem for path in self._layout.sessions.glob("*.json")]
        summaries: dict[tuple[str, int], SessionSummary] = {}
        for session in sorted(filter(is_session, names), reverse=True)[:MAX_SESSIONS]:
            try:
                key = session, self._layout.report(session).stat().st_mtime_ns
            except FileNotFoundError:
                continue
            summaries[key] = self._ended.get(key) or self._read(session)
        unfinished = ("running", "crashed")
        self._ended = {
            key: summary for key, summary in summaries.items() if summary.state not in unfinished
        }
        return list(summaries.values())

    def _read(self, session: str) -> SessionSummary:
        try:
            return SessionSummary.of(self._layout, read_session(self._layout, session))
        except (ValueError, OSError):
            return SessionSummary(session, "damaged")


class Dashboard:
    """The state that the routes share: the broadcasts, each run by a task."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._session_list = SessionList(layout)
        self._broadcasts: dict[str, Broadcast] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()

    async def list_sessions(self, _: Request) -> Response:
        """Answer with the list of sessions."""
        sessions = await asyncio.to_thread(self._session_list.sessions)
        return Response(msgspec.json.encode(sessions), media_type="application/json")

    async def stream_session(self, request: Request) -> Response:
        """Stream a session; the query has ``session``, ``ticker`` and ``every`` (s)."""
        session = request.query_params.get("session", LATEST)
        every = request.query_params.get("every", "")
        if not every.isdecimal() or int(every) not in LENGTHS_S:
            every = str(LENGTHS_S[1])
        return StreamingResponse(
            self._events(session, request.query_params.get("ticker", ""), int(every)),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def _events(self, session: str, ticker: str, every: int) -> AsyncIterator[bytes]:
        try:
            broadcast = await self._open_broadcast(session)
        except (FileNotFoundError, ValueError) as error:
            sentence = (
                f"This data folder has no session {session}."
                if isinstance(error, FileNotFoundError)
                else f"The report of session {session} is damaged: {error}"
            )
            yield b"event: failure\ndata: %s\n\n" % msgspec.json.encode(sentence)
            return
        ticker = ticker or broadcast.session_view.liveness.busiest_ticker
        async with contextlib.aclosing(broadcast.stream(ticker, every)) as events:
            async for event in events:
                yield event

    async def _open_broadcast(self, session: str) -> Broadcast:
        """Return the broadcast of a session, a new one if necessary.

        Raises:
            FileNotFoundError: the session does not exist.
            ValueError: its report is damaged.
        """
        async with self._opening:
            if session == LATEST:
                sessions = await asyncio.to_thread(self._session_list.sessions)
                if not sessions:
                    raise FileNotFoundError(session)
                session = sessions[0].session
            if not is_session(session):
                raise FileNotFoundError(session)
            broadcast = self._broadcasts.get(session)
            if broadcast is None or broadcast.closed or self._tasks[session].done():
                view = await asyncio.to_thread(SessionView, self.layout, session)
                broadcast = self._broadcasts[session] = Broadcast(view, self.layout, session)
                self._tasks[session] = asyncio.create_task(self._run(broadcast))
            return broadcast

    async def _run(self, broadcast: Broadcast) -> None:
        await broadcast.run()
        if self._broadcasts.get(broadcast.session) is broadcast:
            del self._broadcasts[broadcast.session]
            del self._tasks[broadcast.session]

    async def close(self) -> None:
        """Send every viewer the final state, and end the streams."""
        for broadcast in list(self._broadcasts.values()):
            await broadcast.close()
        for task in list(self._tasks.values()):
            task.cancel()


class _SecurityHeaders:
    """Adds headers to every answer that keep other sites from reading or embedding the page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _send_page(_: Request) -> Response:
    return FileResponse(STATIC / "index.html")


def make_app(dashboard: Dashboard) -> Starlette:
    """Make the application."""
    return Starlette(
        routes=[
            Route("/", _send_page, methods=["GET"]),
            Route("/api/sessions", dashboard.list_sessions, methods=["GET"]),
            Route("/api/live", dashboard.stream_session, methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_SecurityHeaders),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
        ],
    )


class DashboardServer(uvicorn.Server):
    """Serves the page of a data folder."""

    def __init__(self, layout: Layout) -> None:
        self._dashboard = Dashboard(layout)
        super().__init__(
            uvicorn.Config(
                make_app(self._dashboard),
                log_level="warning",
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_SHUTDOWN_S,
            )
        )

    async def serve_page(self, listening: socket.socket, parent: BinaryIO | None) -> None:
        """Serve until a signal arrives, or until ``parent``, a pipe, is closed."""
        watch = asyncio.create_task(self._exit_with(parent)) if parent is not None else None
        await self.serve(sockets=[listening])
        if watch is not None:
            watch.cancel()

    async def _exit_with(self, parent: BinaryIO) -> None:
        reader = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), parent)
        await reader.read()
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End the streams first, because uvicorn waits for them."""
        with contextlib.suppress(Exception):
            await self._dashboard.close()
        await super().shutdown(sockets)
