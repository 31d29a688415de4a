"""TLS of the simulator: an authority of its own, and what only TLS can do to a connection."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

# The header of a record that says 16 KiB of data follow (RFC 8446, 5.1), and the only 100 bytes
# that arrive: a client can neither decrypt nor refuse them.
HALF_RECORD = b"\x17\x03\x03\x40\x00" + bytes(100)


class Authority:
    """Signs certificates of servers. It is made at the start; nobody trusts it by default."""

    def __init__(self) -> None:
        import trustme  # slow to import, and only TLS needs it

        self._authority = trustme.CA()

    def write(self, file: Path) -> None:
        """Write its own certificate (PEM) to a file, for clients to trust."""
        self._authority.cert_pem.write_to_path(str(file))

    def certify(
        self, context: ssl.SSLContext, *names: str, not_after: datetime | None = None
    ) -> None:
        """Give a server's context a certificate for host names and addresses."""
        self._authority.issue_cert(*names, not_after=not_after).configure_cert(context)


class ServerContext(ssl.SSLContext):
    """The simulator's side of TLS; ``next_version`` is asked before each connection."""

    next_version: Callable[[], ssl.TLSVersion]

    @classmethod
    def make(
        cls, authority: Authority, next_version: Callable[[], ssl.TLSVersion]
    ) -> ServerContext:
        """Return the context of a server on this machine."""
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        authority.certify(context, "127.0.0.1", "localhost", "::1")
        context.next_version = next_version
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - as the library has it
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """Begin TLS on one connection, with the greatest version that it may speak."""
        self.maximum_version = self.next_version()
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, session)


def tcp_below(transport: asyncio.Transport) -> asyncio.Transport:
    """Return the transport of TCP below one of TLS, or ``transport`` itself without TLS."""
    tls = getattr(transport, "_ssl_protocol", None)  # asyncio has no public way to it
    return transport if tls is None else tls._transport  # noqa: SLF001
