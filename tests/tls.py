"""TLS for tests: an authority of their own, which nobody trusts who is not told to."""

from __future__ import annotations

import ssl
from datetime import datetime
from pathlib import Path


class Authority:
    """Signs certificates for the servers of tests."""

    def __init__(self) -> None:
        import trustme

        self._authority = trustme.CA()

    def write(self, file: Path) -> None:
        """Put its own certificate into a file, for who is to trust it."""
        self._authority.cert_pem.write_to_path(str(file))

    def server(
        self, name: str = "127.0.0.1", *, not_after: datetime | None = None
    ) -> ssl.SSLContext:
        """TLS of a server whose certificate is for ``name``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._authority.issue_cert(name, not_after=not_after).configure_cert(context)
        return context

    def client(self) -> ssl.SSLContext:
        """TLS of a client that trusts this authority and no other."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._authority.configure_trust(context)
        return context
