"""The way to a server: name lookup, TCP, a proxy if the environment names one, TLS.

websocket-client can do all of this, but then another thread can neither end it nor see which step
it is at.
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
# OpenSSL's numbers for why it refuses a certificate (X509_V_ERR_…): not valid yet, or expired;
# for another host, or another address.
_WRONG_TIME, _WRONG_NAME = (9, 10), (62, 64)


def format_address(host: str, port: int) -> str:
    """Format host and port as in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


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
        self._socket: socket.socket | None = None
        self._aborted = False

    def connect(self, url: str, timeout_s: float) -> socket.socket:
        """Connect to the server of ``url``; the handshake can begin on the returned socket.

        Raises:
            BadCertificate: the server's certificate cannot be verified.
            WrongScheme: the address asks for TLS, and the server does not speak it.
            TimeoutError: an answer did not come in time; ``step`` says which.
            OSError: the server cannot be reached.
        """
        parts = urlsplit(url)
        self.secure = parts.scheme == "wss"
        self._host = parts.hostname or ""
        self._port = parts.port or (443 if self.secure else 80)
        self.server = format_address(self._host, self._port)
        try:
            sock = self._connect_tcp(timeout_s)
            if self.secure:
                sock = self._start_tls(sock)
        except BaseException:
            if self._socket is not None:
                self._socket.close()
            raise
        self.step = "the handshake"
        return sock

    def abort(self) -> None:
        """End the attempt; it then opens no other socket."""
        self._aborted = True
        if self._socket is not None:
            shutdown_socket(self._socket)

    def _hold(self, sock: socket.socket) -> None:
        """Let ``abort`` end ``sock`` from now on."""
        self._socket = sock
        if self._aborted:  # abort() sets it before it reads _socket, so one of them sees the other
            raise ConnectionAbortedError("aborted")

    def _connect_tcp(self, timeout_s: float) -> socket.socket:
        proxy, port, auth = get_proxy_info(self._host, self.secure)
        if proxy is None:
            return self._open(self._host, self._port, timeout_s)
        sock = self._open(proxy, port or 80, timeout_s)
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

    def _open(self, host: str, port: int, timeout_s: float) -> socket.socket:
        """Connect to the first address of ``host`` that answers; they share the time."""
        limit = Deadline.after(timeout_s)
        self.step = f"the name lookup of {host}"
        try:
            addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            raise OSError(f"{host}: {error.strerror}") from error
        failures: list[str] = []
        for index, (family, kind, protocol, _, address) in enumerate(addresses):
            name = format_address(str(address[0]), port)
            self.step = f"the connection attempt to {name}"
            try:
                sock = socket.socket(family, kind, protocol)
                self._hold(sock)
                sock.settimeout(limit.remaining() / (len(addresses) - index))
                for option in DEFAULT_SOCKET_OPTION:
                    sock.setsockopt(*option)
                sock.connect(address)
            except OSError as error:
                if self._socket is not None:
                    self._socket.close()
                if self._aborted or (isinstance(error, TimeoutError) and len(addresses) == 1):
                    raise
                failures.append(f"{name}: {error.strerror or error}")
            else:
                sock.settimeout(timeout_s)
                return sock
        raise OSError("; ".join(failures))

    def _start_tls(self, plain: socket.socket) -> socket.socket:
        self.step = "the TLS handshake"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_default_certs()
        sock = context.wrap_socket(
            plain,
            server_hostname=self._host,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=False,  # the end of TCP is not the end of TLS
        )
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
