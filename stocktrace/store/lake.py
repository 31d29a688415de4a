"""The lake: an object store to which several machines publish, and from which readers read.

Below its URL are the same names as in a data folder: ``parquet/date=…/…``,
``coverage/date=…/<session>.parquet`` and ``sessions/<session>.json``. Names consist of those of
session and window, so that sending a file again replaces the file itself.

A file appears under its name only when it is complete: S3 and Google Cloud Storage do so; elsewhere
it is written under another name and moved. It is read back and compared before ``put`` returns.
Credentials come from where the tools of the store take them: the environment, or a role of the
machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from stocktrace.errors import LakeError, StoreError
from stocktrace.store.files import make_folder, publish_file
from stocktrace.store.names import reading_order
from stocktrace.store.parquet import SourceFile
from stocktrace.store.remote import read_object

# The defaults delay a window for minutes if the store does not accept connections.
_CONNECT_S = 5.0
_REQUEST_S = 10.0  # without a single byte
_TRIES = 3
# A window ends at midnight, UTC, at the latest.
_LONGEST_WINDOW = timedelta(days=1)
# Stores in which a file appears when its upload is complete; Azure shows an empty file before.
_ATOMIC_UPLOADS = {"s3", "gcs"}
# A shorter value is not a credential, and may be part of a word.
_MIN_SECRET = 5
_SECRET = re.compile(r"(AWS|AZURE|GOOGLE|GCS)_\w*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)\w*")


@dataclass(frozen=True, slots=True)
class Lake:
    """An open lake; ``files`` and ``root`` are its file system and path for pyarrow.

    All errors are a ``LakeError``: of the URL, of the store, or of content that differs.
    """

    url: str
    files: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, url: str) -> Self:
        """Open a lake at ``s3://``, ``gs://``, ``abfs://`` or ``file://``, without a request."""
        with _lake_errors(url):
            files, root = _s3(url) if url.startswith("s3:") else pafs.FileSystem.from_uri(_gs(url))
        return cls(url, files, root.rstrip("/"))

    def put(self, source: Path, key: str) -> int:
        """Publish a file under ``key``, read it back and return its size; may be repeated."""
        # Sent in one piece: if it fails in the middle, nothing appears.
        data = source.read_bytes()
        final = f"{self.root}/{key}"
        with _lake_errors(self.url):
            if self.files.type_name in _ATOMIC_UPLOADS:
                self._write(final, data, key)
                return len(data)
            folder, _, name = final.rpartition("/")
            temporary = f"{folder}/.{name}.tmp"
            if self.files.type_name == "local":
                make_folder(Path(folder))
                self._write(temporary, data, key)
                publish_file(Path(temporary), Path(final))
            else:
                self.files.create_dir(folder, recursive=True)
                self._write(temporary, data, key)
                self.files.move(temporary, final)
        return len(data)

    def _write(self, path: str, data: bytes, key: str) -> None:
        with self.files.open_output_stream(path) as sink:
            sink.write(data)
        if read_object(self.files, path, len(data)) != data:
            raise LakeError(f"{key} in {self.url} has other content than was sent.")

    # --- the methods of a ``FolderSource`` -----------------------------------------------------

    def dates(self) -> list[str]:
        """See ``FolderSource``."""
        names = (info.base_name for info in self._list("parquet"))
        return sorted(name.removeprefix("date=") for name in names if name.startswith("date="))

    def trade_files(self, date: str) -> list[SourceFile]:
        """See ``FolderSource``."""
        infos = [info for info in self._list(f"parquet/date={date}") if info.extension == "parquet"]
        infos.sort(key=lambda info: reading_order(Path(info.path)))
        return [SourceFile(info.path, info.size) for info in infos]

    def coverage_files(
        self, dates: Iterable[str] | None = None, session: str | None = None
    ) -> list[SourceFile]:
        """See ``FolderSource``."""
        if dates is None:
            dates = [info.base_name.removeprefix("date=") for info in self._list("coverage")]
        infos = [info for each in dates for info in self._list(f"coverage/date={each}")]
        infos.sort(key=lambda info: info.path)
        return [
            SourceFile(info.path, info.size)
            for info in infos
            if session in (None, Path(info.path).stem)
        ]

    def gap_fills(self) -> list[str]:
        """See ``FolderSource``."""
        return sorted(info.path for info in self._list("repairs"))

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """See ``FolderSource``."""
        infos = sorted(self._list("sessions"), key=lambda info: info.path, reverse=True)
        yield from map(self._read, infos[:last])

    def running_sessions(
        self, begin: datetime, end: datetime, ended: Collection[str] = ()
    ) -> list[str]:
        """See ``FolderSource``; the last report of a crashed session says that it runs, too.

        A running session sends its report with every window, so at least once a day.
        """
        earlier = f"{end:%Y%m%dT%H%M%S%f}"
        candidates = [
            info
            for info in self._list("sessions")
            if info.mtime >= begin - _LONGEST_WINDOW
            and info.base_name < earlier
            and Path(info.path).stem not in ended
        ]
        # A session that has ended has coverage of the day on which it began.
        stamps = {info.base_name[:8] for info in candidates}
        days = [f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}" for stamp in stamps]
        ended = {Path(file.path).stem for file in self.coverage_files(days)}
        candidates = [info for info in candidates if Path(info.path).stem not in ended]
        reports = [json.loads(self._read(info)) for info in candidates]
        return [str(report["session"]) for report in reports if report["state"] == "running"]

    def _read(self, info: pafs.FileInfo) -> bytes:
        with _lake_errors(self.url), self.files.open_input_file(info.path) as file:
            return bytes(file.read())

    def _list(self, folder: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        with _lake_errors(self.url):
            infos = self.files.get_file_info(selector)
        return [info for info in infos if not info.base_name.startswith(".")]


def _s3(url: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(url)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    if "endpoint_override" in options:
        # Servers other than Amazon's often reject the trailing checksums of its current SDK. Files
        # are compared anyway. A setting of the user has precedence.
        os.environ.setdefault("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    elif "region" not in options and "AWS_REGION" not in os.environ:
        options["region"] = pafs.resolve_s3_region(parts.netloc)
    files = pafs.S3FileSystem(
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
        allow_delayed_open=True,  # a small file is one request
        **options,
    )
    return files, f"{parts.netloc}{parts.path}"


def _gs(url: str) -> str:
    """Return ``url`` with a time limit for Google's client, which retries for 15 minutes."""
    parts = urlsplit(url)
    if parts.scheme != "gs":
        return url
    options = {"retry_limit_seconds": f"{_REQUEST_S:.0f}", **dict(parse_qsl(parts.query))}
    return parts._replace(query=urlencode(options)).geturl()


@contextmanager
def _lake_errors(url: str) -> Iterator[None]:
    """Translate errors of pyarrow and of a disk into one sentence without credentials."""
    try:
        yield
    except LakeError:
        raise
    except (pa.ArrowException, OSError, StoreError) as error:
        text = without_secrets(" ".join(str(error).split()), os.environ)
        raise LakeError(f"The lake {url} cannot be used: {text.rstrip('.')}.") from None


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """Return ``text`` without the values of environment variables that hold credentials."""
    for name, value in environment.items():
        if len(value) >= _MIN_SECRET and _SECRET.fullmatch(name):
            text = text.replace(value, "***")
    return text
