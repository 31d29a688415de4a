"""The server: static files, the list of sessions, and one stream of events a viewer. GET only."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stocktrace.dashboard.broadcast import Broadcast
from stocktrace.dashboard.chart import LENGTHS_S
from stocktrace.dashboard.session_state import SessionView
from stocktrace.dashboard.sessions import SessionList
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_session

STATIC = Path(__file__).with_name("static")
#: A page of another site that has its name point here could otherwise read along.
HOSTS = ["127.0.0.1", "localhost"]
#: Stands for the newest session.
LATEST = "latest"

_HEADERS = [
    (b"content-security-policy", b"default-src 'self'; frame-ancestors 'none'; base-uri 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]


class Dashboard:
    """What the routes share: the rooms, each kept by a task."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._shelf = SessionList(layout)
        self._rooms: dict[str, Broadcast] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._opening = asyncio.Lock()

    async def sessions(self, request: Request) -> Response:
        """The list."""
        del request
        found = await asyncio.to_thread(self._shelf.sessions)
        return Response(msgspec.json.encode(found), media_type="application/json")

    async def live(self, request: Request) -> Response:
        """The stream of a session: ``session``, ``ticker``, ``every`` (s)."""
        session = request.query_params.get("session", LATEST)
        every = request.query_params.get("every", "")
        if not every.isdecimal() or int(every) not in LENGTHS_S:
            every = str(LENGTHS_S[1])
        return StreamingResponse(
            self._stream(session, request.query_params.get("ticker", ""), int(every)),
            media_type="text/event-stream",
            headers={"x-accel-buffering": "no"},
        )

    async def _stream(self, session: str, ticker: str, every: int) -> AsyncIterator[bytes]:
        try:
            room = await self._room(session)
        except (FileNotFoundError, ValueError) as error:
            sentence = (
                f"There is no session {session} here."
                if isinstance(error, FileNotFoundError)
                else f"The report of session {session} is damaged: {error}"
            )
            yield b"event: failure\ndata: %s\n\n" % msgspec.json.encode(sentence)
            return
        ticker = ticker or room.board.busiest
        async with contextlib.aclosing(room.view(ticker, every)) as events:
            async for event in events:
                yield event

    async def _room(self, session: str) -> Broadcast:
        """The room of a session; opened if need be.

        Raises:
            FileNotFoundError: there is no such session.
            ValueError: its report is damaged.
        """
        async with self._opening:
            if session == LATEST:
                found = await asyncio.to_thread(self._shelf.sessions)
                if not found:
                    raise FileNotFoundError(session)
                session = found[0].session
            if not is_session(session):
                raise FileNotFoundError(session)
            room = self._rooms.get(session)
            if room is None or room.closed or self._tasks[session].done():
                board = await asyncio.to_thread(SessionView, self.layout, session)
                room = self._rooms[session] = Broadcast(board, self.layout, session)
                self._tasks[session] = asyncio.create_task(self._keep(room))
            return room

    async def _keep(self, room: Broadcast) -> None:
        await room.keep()
        if self._rooms.get(room.session) is room:
            del self._rooms[room.session]
            del self._tasks[room.session]

    async def close(self) -> None:
        """Give every viewer the last word, and end the streams."""
        for room in list(self._rooms.values()):
            await room.close()
        for task in list(self._tasks.values()):
            task.cancel()


class _Headers:
    """Adds the headers that keep a page to itself to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_more(message: Message) -> None:
            if message["type"] == "http.response.start":
                names = {name for name, _ in _HEADERS}
                kept = [each for each in message["headers"] if each[0].lower() not in names]
                message = {**message, "headers": [*kept, *_HEADERS]}
            await send(message)

        await self._app(scope, receive, send_more)


async def _page(request: Request) -> Response:
    del request
    return FileResponse(STATIC / "index.html")


def make_app(dashboard: Dashboard) -> Starlette:
    """The application."""
    return Starlette(
        routes=[
            Route("/", _page, methods=["GET"]),
            Route("/api/sessions", dashboard.sessions, methods=["GET"]),
            Route("/api/live", dashboard.live, methods=["GET"]),
            Mount("/static", StaticFiles(directory=STATIC)),
        ],
        middleware=[
            Middleware(_Headers),
            Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS),
        ],
    )
