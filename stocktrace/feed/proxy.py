"""The proxy that the environment names, and the tunnel through it (HTTP CONNECT, RFC 9110, 9.3.6).

``HTTPS_PROXY`` is for ``wss://`` and ``https://``, ``HTTP_PROXY`` for the others, ``ALL_PROXY`` for
both. In small letters they have precedence. A host in ``NO_PROXY``, and this machine, is connected
to directly.
"""

from __future__ import annotations

import base64
import ipaddress
import os
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from stocktrace.errors import ProxyUnusable

# The most that a proxy's answer to CONNECT has; those of real ones have a few hundred bytes.
_HEAD_BYTES = 1 << 14
# Client errors that pass: request timeout, too early, too many requests.
_TEMPORARY = (408, 425, 429)


def format_address(host: str, port: int) -> str:
    """Format host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; ``variable`` of the environment names it."""

    variable: str
    host: str
    port: int
    #: User and password.
    login: tuple[str, str] | None = field(repr=False)

    def __str__(self) -> str:
        return format_address(self.host, self.port)

    def open_tunnel(self, sock: socket.socket, host: str, port: int) -> None:
        """Have the proxy behind ``sock`` connect it to a server.

        Raises:
            ProxyUnusable: it refuses, and will refuse the next time.
            OSError: it failed.
        """
        server = format_address(host, port)
        head = f"CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n"
        if self.login is not None:
            words = base64.b64encode(":".join(self.login).encode()).decode()
            head += f"Proxy-Authorization: Basic {words}\r\n"
        sock.sendall(f"{head}\r\n".encode())
        answer = bytearray()
        while not answer.endswith(b"\r\n\r\n"):
            byte = sock.recv(1)  # what follows the head belongs to the server
            answer += byte
            if not b"HTTP/1.".startswith(answer[:7]) or len(answer) > _HEAD_BYTES:
                raise ProxyUnusable(
                    f"The proxy {self} does not answer in HTTP. Set {self.variable} to the "
                    f"address of an HTTP proxy, or add {host} to NO_PROXY."
                )
            if not byte:
                raise OSError(f"the proxy {self} closed the connection; is it an HTTP proxy?")
        status = re.match(rb"HTTP/1\.\d (\d{3})", answer)
        code = int(status[1]) if status else 0
        if not 200 <= code < 300:
            schemes = re.findall(rb"(?im)^proxy-authenticate: *([\w-]+)", answer)
            raise self.refusal(code, server, [scheme.decode() for scheme in schemes])

    def refusal(self, status: int, server: str, schemes: list[str] | None = None) -> Exception:
        """Return the exception for another answer than 2xx; ``schemes`` are those that a 407 has.

        ``ProxyUnusable``: waiting does not help.
        """
        refused = f"the proxy {self} refused CONNECT {server} (HTTP {status})"
        if status in (401, 407):  # tinyproxy answers a wrong password with 401
            remedy = f"Put a user and a password into {self.variable}: http://USER:PASSWORD@{self}"
            if schemes and "basic" not in map(str.lower, schemes):
                remedy = f"It asks for {', '.join(schemes)}, and only Basic is supported"
            elif self.login is not None:
                remedy = f"Correct the user and the password in {self.variable}"
        elif 400 <= status < 500 and status not in _TEMPORARY:
            remedy = f"Have it allow this server, or add {server.rpartition(':')[0]} to NO_PROXY"
        else:
            return OSError(refused)
        return ProxyUnusable(f"{refused[0].upper()}{refused[1:]}. {remedy}.")


def find_proxy(host: str, port: int, *, secure: bool) -> Proxy | None:
    """Return the proxy for a server, or ``None``.

    Raises:
        ProxyUnusable: the environment does not name an HTTP proxy.
    """
    if _is_direct(host, port):
        return None
    for name in ("https_proxy" if secure else "http_proxy", "all_proxy"):
        if value := _variable(name):
            return _parse(name if name in os.environ else name.upper(), value, host)
    return None


def _variable(name: str) -> str:
    return os.environ.get(name, os.environ.get(name.upper(), "")).strip()


def _parse(variable: str, value: str, server: str) -> Proxy:
    parts = urlsplit(value if "://" in value else f"http://{value}")
    try:
        host, port = parts.hostname, 80 if parts.port is None else parts.port
    except ValueError:  # it can quote the password
        host, port = None, 0
    if not host or parts.path.strip("/") or parts.query or parts.fragment:
        raise ProxyUnusable(
            f"{variable} is not the address of a proxy. Use http://HOST:PORT or "
            "http://USER:PASSWORD@HOST:PORT, with special characters of both percent-encoded."
        )
    if parts.scheme != "http":
        raise ProxyUnusable(
            f"The proxy {format_address(host, port)} of {variable} is not an HTTP proxy "
            f"({parts.scheme}://), and no other is supported. Set {variable} to http://HOST:PORT, "
            f"or add {server} to NO_PROXY."
        )
    login = parts.username and (unquote(parts.username), unquote(parts.password or ""))
    return Proxy(variable, host, port, login or None)


def _is_direct(host: str, port: int) -> bool:
    """Return ``True`` for this machine, and for a host in ``NO_PROXY``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = None
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for entry in _variable("no_proxy").lower().replace(" ", "").split(","):
        if address is not None and "/" in entry:
            try:
                if address in ipaddress.ip_network(entry, strict=False):
                    return True
            except ValueError:
                continue
        name = entry.removesuffix(f":{port}").strip("[]").removeprefix("*").removeprefix(".")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}"))):
            return True
    return False
