"""The way to a server: name lookup, TCP, a proxy if the environment names one, TLS.

websocket-client can do all of this itself, but gives no other thread a way to end it, or to see
how far it came.
"""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
from urllib.parse import urlsplit

from websocket import DEFAULT_SOCKET_OPTION, WebSocketException, WebSocketTimeoutException
from websocket._http import read_headers
from websocket._url import get_proxy_info

from stocktrace.clock import Deadline
from stocktrace.errors import BadCertificate, WrongScheme

# OpenSSL's names for an answer that is not TLS.
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "PACKET_LENGTH_TOO_LONG", "HTTP_REQUEST"})
# OpenSSL's numbers for why it refuses a certificate (X509_V_ERR_…).
_NOT_YET_VALID, _EXPIRED, _OTHER_HOST, _OTHER_ADDRESS = 9, 10, 62, 64


def format_address(host: str, port: int) -> str:
    """Host and port as a URL spells them."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def shutdown_socket(sock: socket.socket) -> None:
    """End TCP from any thread: whoever waits on it gets an error."""
    with contextlib.suppress(OSError):  # it has ended already
        # Not SSLSocket's own, which would pull its state from under the reader.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Transport:
    """One attempt to reach a server; ``hang_up`` ends it from any thread."""

    def __init__(self) -> None:
        #: The answer that it waits for, for a message.
        self.step = ""
        #: Where the server is, and whether it is reached over TLS.
        self.server, self.secure = "", False
        self._host, self._port = "", 0
        self._socket: socket.socket | None = None
        self._hung_up = False

    def connect(self, url: str, within_s: float) -> socket.socket:
        """Connect to the server of ``url``; the handshake can begin on the socket returned.

        Raises:
            BadCertificate: the server's certificate cannot be verified.
            WrongScheme: the address asks for TLS, and the server does not speak it.
            TimeoutError: there was no answer; ``step`` says to what.
            OSError: the server cannot be reached.
        """
        parts = urlsplit(url)
        self.secure = parts.scheme == "wss"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self.secure else 80)
        self.server = format_address(self._host, self._port)
        try:
            sock = self._through_proxy_or_not(within_s)
            if self.secure:
                sock = self._start_tls(sock)
        except BaseException:
            if self._socket is not None:
                self._socket.close()
            raise
        self.step = "the handshake"
        return sock

    def abort(self) -> None:
        """End it, whatever it waits for; it opens no other socket."""
        self._hung_up = True
        if self._socket is not None:
            shutdown_socket(self._socket)

    def _hold(self, sock: socket.socket) -> None:
        """From now on ``hang_up`` ends ``sock``."""
        self._socket = sock
        if self._hung_up:  # set before it looks for a socket, so that one of both sees the other
            raise ConnectionAbortedError("hung up")

    def _through_proxy_or_not(self, within_s: float) -> socket.socket:
        proxy, port, auth = get_proxy_info(self._host, self.secure)
        if proxy is None:
            return self._open(self._host, self._port, within_s)
        sock = self._open(proxy, port or 80, within_s)
        name = format_address(proxy, port or 80)
        self.step = f"CONNECT from the proxy {name}"
        head = f"CONNECT {self.server} HTTP/1.1\r\nHost: {self.server}\r\n"
        if auth is not None:
            words = base64.b64encode(":".join(auth).encode()).decode()
            head += f"Proxy-Authorization: Basic {words}\r\n"
        sock.sendall(f"{head}\r\n".encode())
        try:
            status, _, _ = read_headers(sock)
        except WebSocketTimeoutException:
            raise
        except WebSocketException as error:
            raise OSError(f"the proxy {name}: {error}") from error
        if status != 200:
            raise OSError(f"the proxy {name} refused CONNECT {self.server} (HTTP {status})")
        return sock

    def _open(self, host: str, port: int, within_s: float) -> socket.socket:
        """TCP to the first address of ``host`` that answers; each has its share of the time."""
        limit = Deadline.after(within_s)
        self.step = f"the name lookup of {host}"
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"{host}: {error.strerror}") from error
        failures: list[str] = []
        for at, (family, kind, protocol, _, where) in enumerate(found):
            name = format_address(str(where[0]), port)
            self.step = f"the connection attempt to {name}"
            try:
                sock = socket.socket(family, kind, protocol)
                self._hold(sock)
                sock.settimeout(limit.remaining() / (len(found) - at))
                for option in DEFAULT_SOCKET_OPTION:
                    sock.setsockopt(*option)
                sock.connect(where)
            except OSError as error:
                if self._socket is not None:
                    self._socket.close()
                if self._hung_up or (isinstance(error, TimeoutError) and len(found) == 1):
                    raise
                failures.append(f"{name}: {error.strerror or error}")
            else:
                sock.settimeout(within_s)
                return sock
        raise OSError("; ".join(failures))

    def _start_tls(self, plain: socket.socket) -> socket.socket:
        self.step = "the TLS handshake"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        sock = context.wrap_socket(plain, server_hostname=self._host, do_handshake_on_connect=False)
        self._hold(sock)
        try:
            sock.do_handshake()
        except ssl.SSLCertVerificationError as error:
            problem = error.verify_message.rstrip(".")
            raise BadCertificate(self.server, problem, _remedy(error)) from error
        except (ssl.SSLEOFError, ConnectionResetError) as error:
            raise ConnectionResetError(
                f"{self.server} closed the connection in the TLS handshake; if it does not speak "
                "TLS, its address begins with ws://"
            ) from error
        except ssl.SSLError as error:
            if error.reason in _NOT_TLS:
                raise WrongScheme(self.server, "ws") from error
            raise
        return sock


def _remedy(error: ssl.SSLCertVerificationError) -> str:
    if error.verify_code in (_NOT_YET_VALID, _EXPIRED):
        return "check the clock of this machine, or have the server's certificate renewed"
    if error.verify_code in (_OTHER_HOST, _OTHER_ADDRESS):
        return "set STOCKTRACE_URL or --url to the name that the certificate is for"
    variable = ssl.get_default_verify_paths().openssl_cafile_env
    now = os.environ.get(variable)
    return (
        f"set {variable}{f' (now {now})' if now else ''} to a PEM file with the certificate of the "
        "authority that signed it, or install your system's package ca-certificates"
    )
