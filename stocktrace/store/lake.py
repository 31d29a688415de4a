"""The lake: an object store to which several machines publish, and from which readers read.

Below its URL are the same names as in a data folder: ``parquet/date=…/…``,
``coverage/date=…/<session>.parquet`` and ``sessions/<session>.json``. Names consist of those of
session and window, so that sending a file again replaces the file itself.

A file appears under its name only when it is complete: S3 and Google Cloud Storage do so; elsewhere
it is written under another name and moved. It is read back and compared before ``put`` returns.

A date may be compacted (``lake_compaction``): ``day-<n>.parquet``, which is sent after its other
parts, lists its windows in its footer. Files of these windows, and older files of the day, may be
there for some time; ``date_files`` leaves them out.

Credentials come from where the tools of the store take them: the environment, or a role of the
machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from stocktrace.errors import LakeError, StoreError
from stocktrace.store.dataset import retry_on_compaction
from stocktrace.store.files import make_folder, publish_file
from stocktrace.store.footer import read_windows
from stocktrace.store.names import (
    WindowId,
    day_file_name,
    day_number,
    is_day_file,
    reading_order,
)
from stocktrace.store.parquet import SourceFile, open_parquet
from stocktrace.store.remote import PART_BYTES, read_object

# The defaults delay a window for minutes if the store does not accept connections.
_CONNECT_S = 5.0
_REQUEST_S = 10.0  # without a single byte
_TRIES = 3
_PIECE_BYTES = 1 << 20
# A window ends at midnight, UTC, at the latest.
_LONGEST_WINDOW = timedelta(days=1)
# A store lists so many files in one answer; others may have been added and deleted before the next.
_PAGE_FILES = 1000
_FETCH_BYTES = 1 << 26
# Stores in which a file appears when its upload is complete; Azure shows an empty file before.
_ATOMIC_UPLOADS = {"s3", "gcs"}
# A shorter value is not a credential, and may be part of a word.
_MIN_SECRET = 5
_SECRET = re.compile(r"(AWS|AZURE|GOOGLE|GCS)_\w*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)\w*")


@dataclass(frozen=True, slots=True)
class LakeDate:
    """The files of a date in reading order, and those whose rows are in them or were never whole.

    ``number`` is the highest of all files of a compacted day, or 0.
    """

    current: list[SourceFile]
    replaced: list[SourceFile]
    number: int

    @property
    def windows(self) -> list[SourceFile]:
        """The files of windows that are not compacted."""
        return [file for file in self.current if not is_day_file(Path(file.path))]


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
        data = source.read_bytes()
        self.put_bytes(data, key)
        return len(data)

    def put_bytes(self, data: bytes, key: str) -> None:
        """Publish ``data`` under ``key``, and read it back; may be repeated."""
        # Sent in one piece: if it fails in the middle, nothing appears.
        final = f"{self.root}/{key}"
        with _lake_errors(self.url):
            if self.files.type_name in _ATOMIC_UPLOADS:
                self._write(final, data, key)
                return
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

    def _write(self, path: str, data: bytes, key: str) -> None:
        with self.files.open_output_stream(path) as sink:
            sink.write(data)
        if read_object(self.files, path, len(data)) != data:
            raise LakeError(f"{key} in {self.url} has other content than was sent.")

    def fetch(self, file: SourceFile, target: Path) -> None:
        """Copy a file of the lake to ``target``."""
        with _lake_errors(self.url), target.open("wb") as sink:
            if file.size is not None and file.size <= PART_BYTES:
                sink.write(read_object(self.files, file.path, file.size))
                return
            with self.files.open_input_file(file.path) as source:
                while data := source.read(_FETCH_BYTES):
                    sink.write(data)

    def delete(self, path: str) -> None:
        """Delete a file, if it exists."""
        with _lake_errors(self.url), contextlib.suppress(FileNotFoundError):
            self.files.delete_file(path)

    def date_files(self, date: str) -> LakeDate:
        """Return the files of a date; the footer of a compacted day is read if it is not alone.

        Raises:
            ConversionError: That footer cannot be read.
            FileNotFoundError: A compaction has deleted it in the meantime: list again.
        """
        infos = self._list_together(f"parquet/date={date}")
        infos.sort(key=lambda info: reading_order(Path(info.path)))
        files = [SourceFile(info.path, info.size) for info in infos if not _is_hidden(info)]
        days = {Path(file.path) for file in files if is_day_file(Path(file.path))}
        numbers = {day_number(path) for path in days}
        # The first part was sent last.
        names = {path.name for path in days}
        number = max((each for each in numbers if day_file_name(each) in names), default=0)
        # A killed compaction left these, where files are moved to their names.
        hidden = [info for info in infos if info.base_name.startswith(".day-")]
        replaced = [SourceFile(info.path, info.size) for info in hidden]
        current: list[SourceFile] = []
        windows: Collection[WindowId] = ()
        for file in files:
            path = Path(file.path)
            if path in days:
                is_current = day_number(path) == number
                if is_current and path.name == day_file_name(number) and len(files) > len(days):
                    windows = read_windows(file.path, self.files, file.size)
            else:
                is_current = not windows or WindowId.parse(path) not in windows
            (current if is_current else replaced).append(file)
        return LakeDate(current, replaced, max(numbers, default=0))

    def uncompacted_dates(self, folder: str) -> set[str]:
        """Return the dates in a folder that have more files than those of one compacted day."""
        numbers: dict[str, set[int]] = {}
        for info in self.list_files(folder, recursive=True):
            path = Path(info.path)
            if path.suffix == ".parquet":
                number = day_number(path) if is_day_file(path) else 0
                numbers.setdefault(path.parent.name.removeprefix("date="), set()).add(number)
        return {date for date, found in numbers.items() if len(found) > 1 or 0 in found}

    # --- objects of any size, for ``maintenance.backup`` ------------------------------------------

    def upload(self, chunks: Iterable[bytes], key: str) -> None:
        """Write an object piece by piece. If it fails in the middle, a part of it may appear."""
        path = f"{self.root}/{key}"
        with _lake_errors(self.url):
            if self.files.type_name not in _ATOMIC_UPLOADS:
                self.files.create_dir(path.rpartition("/")[0], recursive=True)
            with self.files.open_output_stream(path) as sink:
                for chunk in chunks:
                    sink.write(chunk)

    def download(self, key: str) -> Iterator[bytes]:
        """Yield the pieces of an object, or nothing if it does not exist."""
        with _lake_errors(self.url):
            try:
                stream = self.files.open_input_stream(f"{self.root}/{key}")
            except FileNotFoundError:
                return
            with stream:
                while chunk := stream.read(_PIECE_BYTES):
                    yield chunk

    # --- the methods of a ``FolderSource`` -----------------------------------------------------

    def dates(self) -> list[str]:
        """See ``FolderSource``."""
        names = (info.base_name for info in self.list_files("parquet"))
        return sorted(name.removeprefix("date=") for name in names if name.startswith("date="))

    def trade_files(self, date: str) -> list[SourceFile]:
        """See ``FolderSource``."""
        return retry_on_compaction(lambda: self.date_files(date).current)

    def coverage_files(
        self, dates: Iterable[str] | None = None, session: str | None = None
    ) -> list[SourceFile]:
        """See ``FolderSource``."""
        if dates is None:
            dates = [info.base_name.removeprefix("date=") for info in self.list_files("coverage")]
        found = []
        for date in dates:
            infos = self._list_together(f"coverage/date={date}")
            files = [SourceFile(info.path, info.size) for info in infos if not _is_hidden(info)]
            days = [file for file in files if is_day_file(Path(file.path))]
            last = max(days, key=lambda file: day_number(Path(file.path)), default=None)
            found += [file for file in files if file not in days or file == last]
        found.sort(key=lambda file: file.path)
        return [
            file
            for file in found
            if session in (None, Path(file.path).stem) or is_day_file(Path(file.path))
        ]

    def gap_fills(self) -> list[str]:
        """See ``FolderSource``."""
        return sorted(info.path for info in self.list_files("repairs"))

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """See ``FolderSource``."""
        infos = sorted(self.list_files("sessions"), key=lambda info: info.path, reverse=True)
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
            for info in self.list_files("sessions")
            if info.mtime >= begin - _LONGEST_WINDOW
            and info.base_name < earlier
            and Path(info.path).stem not in ended
        ]
        # A session that has ended has coverage of the day on which it began.
        stamps = {info.base_name[:8] for info in candidates}
        days = [f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:]}" for stamp in stamps]
        ended = retry_on_compaction(lambda: self._sessions_with_coverage(days))
        candidates = [info for info in candidates if Path(info.path).stem not in ended]
        reports = [json.loads(self._read(info)) for info in candidates]
        return [str(report["session"]) for report in reports if report["state"] == "running"]

    def _sessions_with_coverage(self, days: Collection[str]) -> set[str]:
        sessions = set[str]()
        for file in self.coverage_files(days):
            if is_day_file(Path(file.path)):
                with open_parquet(file.path, None, self.files, size=file.size) as parquet:
                    rows = parquet.read(use_threads=False)
                sessions.update(rows["session"].unique().to_pylist())
            else:
                sessions.add(Path(file.path).stem)
        return sessions

    def _read(self, info: pafs.FileInfo) -> bytes:
        with _lake_errors(self.url), self.files.open_input_file(info.path) as file:
            return bytes(file.read())

    def _list_together(self, folder: str) -> list[pafs.FileInfo]:
        """List a folder as it was at one moment."""
        infos = self.list_files(folder, hidden=True)
        while self.files.type_name not in _ATOMIC_UPLOADS or len(infos) >= _PAGE_FILES:
            before, infos = infos, self.list_files(folder, hidden=True)
            if {info.path for info in before} == {info.path for info in infos}:
                break
        return infos

    def list_files(
        self, folder: str, *, recursive: bool = False, hidden: bool = False
    ) -> list[pafs.FileInfo]:
        """List what is in a folder, which may be missing; also what is ``hidden``."""
        path = f"{self.root}/{folder}"
        selector = pafs.FileSelector(path, allow_not_found=True, recursive=recursive)
        with _lake_errors(self.url):
            infos = self.files.get_file_info(selector)
        return [info for info in infos if hidden or not _is_hidden(info)]


def _is_hidden(info: pafs.FileInfo) -> bool:
    """Return whether a file is being sent, and will be moved to its name."""
    return bool(info.base_name.startswith("."))


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


@contextlib.contextmanager
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
