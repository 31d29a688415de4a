"""The way to a server: name lookup, TCP, a proxy if the environment names one, TLS.

websocket-client can do all of this, but then another thread can neither end it nor see which step
it is at, and a name's addresses get their attempts one after the other. Here they overlap ("Happy
Eyeballs", RFC 8305): the next address is tried after a quarter of a second, or at once if an
attempt failed, families in turn, and the first that answers is used.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import socket
import ssl
import time
from collections import deque
from itertools import chain, zip_longest
from typing import Any
from urllib.parse import urlsplit

from websocket import DEFAULT_SOCKET_OPTION

from stocktrace.clock import PLAUSIBLE_SINCE_NS, Deadline
from stocktrace.errors import BadCertificate, CannotConnect, WrongScheme
from stocktrace.feed.proxy import find_proxy, format_address

# The delay between two attempts (RFC 8305, 5: "Connection Attempt Delay").
STAGGER_S = 0.25
# OpenSSL's names for an answer that is not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
# OpenSSL's numbers for why it refuses a certificate (X509_V_ERR_…): not valid yet, or expired;
# for another host, or another address.
_NOT_YET_VALID = 9
_WRONG_TIME, _WRONG_NAME = (_NOT_YET_VALID, 10), (62, 64)


def shutdown_socket(sock: socket.socket) -> None:
    """End TCP, from any thread: a waiting call raises."""
    with contextlib.suppress(OSError):  # it has ended already
        # SSLSocket.shutdown would discard the state that the reader uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Transport:
    """One attempt to reach a server; ``abort`` ends it from any thread."""

    def __init__(self) -> None:
        #: The answer that it waits for, for messages.
        self.step = ""
        #: The server's address, and whether it uses TLS.
        self.server, self.secure = "", False
        self._host, self._port = "", 0
        self._sockets: list[socket.socket] = []
        self._aborted = False

    def connect(self, url: str, timeout_s: float) -> socket.socket:
        """Connect to the server of ``url``; the handshake can begin on the returned socket.

        Raises:
            BadCertificate: the server's certificate cannot be verified.
            ProxyUnusable: the proxy refuses, or is not an HTTP proxy.
            WrongScheme: the address asks for TLS, and the server does not speak it.
            TimeoutError: an answer did not come in time; ``step`` says which.
            OSError: the server cannot be reached.
        """
        parts = urlsplit(url)
        self.secure = parts.scheme == "wss"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self.secure else 80)
        self.server = format_address(self._host, self._port)
        through = ""
        try:
            proxy = find_proxy(self._host, self._port, secure=self.secure)
            if proxy is None:
                sock = self._open(self._host, self._port, timeout_s)
            else:
                sock = self._open(proxy.host, proxy.port, timeout_s, "the proxy ")
                self.step = f"CONNECT from the proxy {proxy}"
                proxy.open_tunnel(sock, self._host, self._port)
                through = f" through the proxy {proxy}"
            if self.secure:
                self.step = f"the TLS handshake{through}"
                sock = self._start_tls(sock)
        except BaseException:
            for each in self._sockets:
                each.close()
            raise
        self.step = f"the handshake{through}"
        return sock

    def abort(self) -> None:
        """End the attempt; it then opens no other socket."""
        self._aborted = True
        for sock in list(self._sockets):
            shutdown_socket(sock)

    def _hold(self, sock: socket.socket) -> None:
        """Let ``abort`` end ``sock`` from now on."""
        self._sockets.append(sock)
        self._raise_if_aborted()  # abort() sets it before it reads _sockets: one sees the other

    def _raise_if_aborted(self) -> None:
        if self._aborted:
            raise ConnectionAbortedError("aborted")

    def _open(self, host: str, port: int, timeout_s: float, role: str = "") -> socket.socket:
        """Connect to the first address of ``host`` that answers; they share the time.

        ``role`` precedes its name in messages.
        """
        limit = Deadline.after(timeout_s)
        self.step = f"the name lookup of {role}{host}"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"{role}{host}: {error.strerror}") from error
        waiting, names, failures = _by_turns(found), list[str](), list[str]()
        with selectors.DefaultSelector() as selector:
            while waiting or selector.get_map():
                if waiting:
                    *kind, _, address = waiting.popleft()
                    name = format_address(str(address[0]), port)
                    names.append(name)
                    self.step = f"the connection attempt to {role}{', '.join(names)}"
                    try:
                        sock = self._begin(kind, address)
                    except OSError as error:
                        self._raise_if_aborted()
                        failures.append(f"{name}: {error.strerror or error}")
                        continue
                    selector.register(sock, selectors.EVENT_WRITE, (sock, name))
                remaining = limit.remaining()
                ready = selector.select(min(STAGGER_S, remaining) if waiting else remaining)
                self._raise_if_aborted()  # which makes sockets ready, too
                for sock, name in [key.data for key, _ in ready]:
                    selector.unregister(sock)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        return self._keep_only(sock, timeout_s)
                    failures.append(f"{name}: {os.strerror(code)}")
                if limit.passed():
                    if not failures:
                        raise TimeoutError
                    late = [key.data[1] for key in selector.get_map().values()]
                    failures += [f"{name}: no answer in {timeout_s:g} s" for name in late]
                    break
        raise OSError(role + "; ".join(failures))

    def _begin(self, kind: list[Any], address: Any) -> socket.socket:
        """Begin to connect to an address."""
        sock = socket.socket(*kind)
        self._hold(sock)
        for option in DEFAULT_SOCKET_OPTION:
            sock.setsockopt(*option)
        sock.settimeout(0)
        if (code := sock.connect_ex(address)) not in (0, errno.EINPROGRESS):
            raise OSError(code, os.strerror(code))
        return sock

    def _keep_only(self, sock: socket.socket, timeout_s: float) -> socket.socket:
        """Close all sockets but ``sock``, and return it."""
        others, self._sockets = self._sockets, [sock]
        for each in others:
            if each is not sock:
                each.close()
        sock.settimeout(timeout_s)
        return sock

    def _start_tls(self, plain: socket.socket) -> socket.socket:
        sock = create_tls_context().wrap_socket(
            plain,
            server_hostname=self._host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # the end of TCP is not the end of TLS
        )
        self._hold(sock)
        try:
            sock.do_handshake()
        except (ssl.SSLEOFError, ConnectionResetError) as error:
            raise ConnectionResetError(
                f"{self.server} closed the connection in the TLS handshake; if it does not speak "
                "TLS, its address begins with ws://"
            ) from error
        except ssl.SSLError as error:
            raise explain_tls_error(self.server, error) or error from error
        return sock


def _by_turns(found: list[Any]) -> deque[Any]:
    """Order addresses so that families take turns, the one of the first address first."""
    first = [each for each in found if each[0] == found[0][0]]
    others = [each for each in found if each[0] != found[0][0]]
    pairs = chain.from_iterable(zip_longest(first, others))
    return deque(each for each in pairs if each is not None)


def create_tls_context() -> ssl.SSLContext:
    """Return the TLS of a client that trusts the system's authorities, or ``SSL_CERT_FILE``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    return context


def explain_tls_error(server: str, error: ssl.SSLError) -> CannotConnect | None:
    """Return the exception for an error that waiting does not cure, or ``None``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _NOT_YET_VALID and time.time_ns() < PLAUSIBLE_SINCE_NS:
            return None  # the clock will be set
        return BadCertificate(server, error.verify_message.rstrip("."), _remedy(error))
    return WrongScheme(server, "ws") if error.reason in _NOT_TLS else None


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in _WRONG_TIME:
        return "check the clock of this machine, or have the server's certificate renewed"
    if error.verify_code in _WRONG_NAME:
        return "set STOCKTRACE_URL or --url to the name that the certificate is for"
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    now = os.environ.get(variable)
    return (
        f"set {variable}{f' (now {now})' if now else ''} to a PEM file with the certificate of the "
        "authority that signed it, or install your system's package ca-certificates"
    )
