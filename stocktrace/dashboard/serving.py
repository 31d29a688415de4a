"""Runs the server on a socket that is bound already: its address is known before it answers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import BinaryIO

import uvicorn

from stocktrace.dashboard.app import Dashboard, make_app
from stocktrace.store.layout import Layout

# Streams end at once when they are told to; this is for a browser that does not listen.
_GOODBYE_S = 2


def serve(layout: Layout, listening: socket.socket, parent: BinaryIO | None = None) -> None:
    """Answer until a signal comes, or until ``parent``, a pipe, is closed at its other end."""
    asyncio.run(_serve(layout, listening, parent))


async def _serve(layout: Layout, listening: socket.socket, parent: BinaryIO | None) -> None:
    dashboard = Dashboard(layout)
    server = _Server(
        uvicorn.Config(
            make_app(dashboard),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_GOODBYE_S,
        )
    )
    server.dashboard = dashboard
    watching = asyncio.create_task(_end_with(parent, server)) if parent is not None else None
    await server.serve(sockets=[listening])
    if watching is not None:
        watching.cancel()


class _Server(uvicorn.Server):
    """Ends the streams before it waits for them to end."""

    dashboard: Dashboard

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(Exception):
            await self.dashboard.close()
        await super().shutdown(sockets)


async def _end_with(parent: BinaryIO, server: uvicorn.Server) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), parent)
    await reader.read()
    server.should_exit = True


def main() -> None:
    """Serve beside a capture: the data folder and the socket's number are the arguments."""
    os.nice(5)  # recording goes first
    root, descriptor = sys.argv[1:]
    serve(Layout(Path(root)), socket.socket(fileno=int(descriptor)), sys.stdin.buffer)


if __name__ == "__main__":
    main()
