"""The address of the page. The port is bound before the server is loaded, which takes a second."""

from __future__ import annotations

import os
import socket

from stocktrace.errors import StocktraceError, usage_or

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
