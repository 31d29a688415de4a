"""The address of the page, and its server, which takes a second to load.

The port is bound before that, so that the address is known before the server answers.
"""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from stocktrace.errors import StocktraceError, usage_or

if TYPE_CHECKING:
    from stocktrace.store.layout import Layout

HOST = "127.0.0.1"
#: Not in any list of well-known ports, and easy to type.
PORT = 8421


def bind_port(port: int) -> socket.socket:
    """Return a socket that listens on this machine's own address; 0 picks any free port.

    Raises:
        UsageError: the port cannot be used.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else "ports are 0 to 65535"
        raise usage_or(StocktraceError, error)(
            f"Cannot listen on port {port} ({reason}). Choose another one with --port; 0 picks any."
        ) from error


def page_address(listening: socket.socket) -> str:
    """Return the URL of the page."""
    return f"http://{HOST}:{listening.getsockname()[1]}/"


def run_server(layout: Layout, listening: socket.socket, parent: BinaryIO | None = None) -> None:
    """Serve until a signal arrives, or until ``parent``, a pipe, is closed at its other end."""
    from stocktrace.dashboard.app import DashboardServer

    asyncio.run(DashboardServer(layout).serve_page(listening, parent))


def main() -> None:
    """Serve beside a capture; the arguments are the data folder and the socket's descriptor."""
    from stocktrace.store.layout import Layout

    os.nice(5)  # recording has priority
    root, descriptor = sys.argv[1:]
    run_server(Layout(Path(root)), socket.socket(fileno=int(descriptor)), sys.stdin.buffer)


if __name__ == "__main__":
    main()
