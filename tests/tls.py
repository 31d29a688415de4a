"""TLS for tests: an authority of their own, which nobody trusts who is not told to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import datetime

from stocktrace.simulator import tls


class Authority(tls.Authority):
    """Makes TLS of servers and of clients that trust them."""

    def server(
        self, name: str = "127.0.0.1", *, not_after: datetime | None = None
    ) -> ssl.SSLContext:
        """TLS of a server whose certificate is for ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.certify(context, name, not_after=not_after)
        return context

    def client(self) -> ssl.SSLContext:
        """TLS of a client that trusts this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context


@contextlib.contextmanager
def relay(
    port: int,
    *,
    address: tuple[str, int] = ("127.0.0.1", 0),
    near: ssl.SSLContext | None = None,
    far: ssl.SSLContext | None = None,
) -> Iterator[int]:
    """Pass bytes between a port of this host (at ``address``), which it yields, and ``port``.

    It speaks TLS on the side that has a context. For clients and servers that do not: a client that
    reads and writes in two threads, for one, must not use a socket of TLS (OpenSSL aborts).
    """
    listener = socket.create_server(address)
    loop, stop = asyncio.new_event_loop(), asyncio.Event()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", port, ssl=far)
        copies = {asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(there, writer))}
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, back):
                end.close()
            for task in copies:
                task.cancel()

    async def run() -> None:
        server = await asyncio.start_server(serve, sock=listener, ssl=near)
        await stop.wait()
        server.close()

    loop.set_exception_handler(lambda *_: None)  # a client or a server that left

    def work() -> None:
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(run())

    thread = threading.Thread(target=work, name="relay")
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()
