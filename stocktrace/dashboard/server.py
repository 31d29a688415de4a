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

# Streams end at once; this is for a browser that does not read.
_SHUTDOWN_S = 2


def run_server(layout: Layout, listening: socket.socket, parent: BinaryIO | None = None) -> None:
    """Serve until a signal arrives, or until ``parent``, a pipe, is closed at its other end."""
    asyncio.run(_run_server(layout, listening, parent))


async def _run_server(layout: Layout, listening: socket.socket, parent: BinaryIO | None) -> None:
    dashboard = Dashboard(layout)
    server = _DashboardServer(
        uvicorn.Config(
            make_app(dashboard),
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=_SHUTDOWN_S,
        )
    )
    server.dashboard = dashboard
    watch = asyncio.create_task(_exit_with_parent(parent, server)) if parent is not None else None
    await server.serve(sockets=[listening])
    if watch is not None:
        watch.cancel()


class _DashboardServer(uvicorn.Server):
    """Ends the streams first, because uvicorn waits for them."""

    dashboard: Dashboard

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        with contextlib.suppress(Exception):
            await self.dashboard.close()
        await super().shutdown(sockets)


async def _exit_with_parent(parent: BinaryIO, server: uvicorn.Server) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), parent)
    await reader.read()
    server.should_exit = True


def main() -> None:
    """Serve beside a capture; the arguments are the data folder and the socket's descriptor."""
    os.nice(5)  # recording has priority
    root, descriptor = sys.argv[1:]
    run_server(Layout(Path(root)), socket.socket(fileno=int(descriptor)), sys.stdin.buffer)


if __name__ == "__main__":
    main()
