"""Where the page is: bound before the server is loaded, so that it can be told at once."""

from __future__ import annotations

import os
import socket

from stocktrace.errors import StocktraceError, UsageError, is_usage

HOST = "127.0.0.1"
#: In no list of well-known ports, and easy to type.
PORT = 8421


def bind(port: int) -> socket.socket:
    """A listening socket on this machine's own address; 0: any free port.

    Raises:
        UsageError: the port cannot be had.
    """
    try:
        return socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        number = error.errno if isinstance(error, OSError) else None
        reason = os.strerror(number) if number else "there is no such port"
        kind = UsageError if is_usage(error) else StocktraceError
        raise kind(
            f"Port {port} cannot be had ({reason}): give another one with --port, or 0 for any."
        ) from error


def address(listening: socket.socket) -> str:
    """Where the page is."""
    return f"http://{HOST}:{listening.getsockname()[1]}/"
