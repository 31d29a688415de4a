"""The lake: a store of objects that takes what is published here and elsewhere, and is read.

Below its URL stand the same names as in a data folder: ``parquet/date=…/symbol=…/…``,
``coverage/date=…/<session>.parquet`` and ``sessions/<session>.json``. A name is made from the
session's and the window's, so that sending a file again replaces it by itself.

A file shows under its name whole or not at all: S3 and Google Cloud Storage show an object when its
upload is complete; elsewhere it is written under another name and moved. It is read back and
compared before ``put`` returns. Credentials come from where the store's own tools take them: the
environment, or a role of the machine.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from stocktrace.errors import LakeError
from stocktrace.store.names import encode_ticker, reading_order, tickers_in

# Without bounds of ours, a store that takes no connection holds up a window for minutes.
_CONNECT_S = 5.0
_REQUEST_S = 10.0  # without a single byte
_TRIES = 3
# Sessions that may go on: more than a fleet has at a time.
_RECENT = 100
# An upload that is complete appears under its name at once; Azure shows an empty file before.
_APPEARS_WHOLE = {"s3", "gcs"}
# What is shorter is no credential, and stands in words.
_SHORTEST = 5
_SECRET = re.compile(r"(AWS|AZURE|GOOGLE|GCS)_\w*(KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL)\w*")


@dataclass(frozen=True, slots=True)
class Lake:
    """A lake that is open; ``files`` and ``root`` are where pyarrow finds it."""

    url: str
    files: pafs.FileSystem
    root: str

    @classmethod
    def open(cls, url: str) -> Self:
        """The lake at ``url``: ``s3://``, ``gs://``, ``abfs://`` or ``file://``; asks no server.

        Raises:
            LakeError: pyarrow does not know it.
        """
        with _lake_errors(url):
            files, root = _s3(url) if url.startswith("s3:") else pafs.FileSystem.from_uri(_gs(url))
        return cls(url, files, root.rstrip("/"))

    def put(self, source: Path, key: str) -> int:
        """Publish a file under ``key``, and read it back; gives its bytes. Again: changes nothing.

        Raises:
            LakeError: it could not be sent, or came back different.
        """
        # In one piece: what fails in the middle of it is the store, and then nothing appears.
        data = source.read_bytes()
        final = f"{self.root}/{key}"
        with _lake_errors(self.url):
            if self.files.type_name in _APPEARS_WHOLE:
                self._write(final, data, key)
            else:
                folder, _, name = final.rpartition("/")
                self.files.create_dir(folder, recursive=True)
                temporary = f"{folder}/.{name}.tmp"
                self._write(temporary, data, key)
                self.files.move(temporary, final)
        return len(data)

    def _write(self, path: str, data: bytes, key: str) -> None:
        with self.files.open_output_stream(path) as sink:
            sink.write(data)
        with self.files.open_input_stream(path) as found:
            if found.read() != data:
                raise LakeError(f"{key} came back from {self.url} with other bytes than were sent.")

    # --- a shelf to read from ----------------------------------------------------------------

    def dates(self) -> list[str]:
        """The UTC dates that something is published of."""
        names = (info.base_name for info in self._listed("parquet"))
        return sorted(name.removeprefix("date=") for name in names if name.startswith("date="))

    def trade_files(self, ticker: str, date: str) -> list[str]:
        """The files of a ticker's date, in the order in which to read them."""
        folder = f"parquet/date={date}/symbol={encode_ticker(ticker)}"
        paths = [info.path for info in self._listed(folder) if info.path.endswith(".parquet")]
        return sorted(paths, key=lambda path: reading_order(Path(path)))

    def coverage_files(self, date: str | None = None, session: str | None = None) -> list[str]:
        """The files of coverage, of one date and one session or of all."""
        dates = [date] if date else [info.base_name[5:] for info in self._listed("coverage")]
        files = (info.path for each in dates for info in self._listed(f"coverage/date={each}"))
        return sorted(path for path in files if session in (None, Path(path).stem))

    def gap_fills(self) -> list[str]:
        """The files that tell of repairs of gaps."""
        return sorted(info.path for info in self._listed("repairs"))

    def tickers(self, date: str) -> set[str]:
        """The tickers that something is published of on a date."""
        names = (info.base_name for info in self._listed(f"parquet/date={date}"))
        return set(tickers_in(name.removeprefix("symbol=") for name in names))

    def reports(self, last: int | None = None) -> Iterator[bytes]:
        """The reports of the last so many sessions, or of all, the latest first."""
        paths = sorted((info.path for info in self._listed("sessions")), reverse=True)
        for path in paths[:last]:
            with _lake_errors(self.url), self.files.open_input_stream(path) as file:
                yield bytes(file.read())

    def running_sessions(self) -> list[str]:
        """The sessions whose last report here says that they run; one that died does, too."""
        told = [json.loads(report) for report in self.reports(_RECENT)]
        return [str(one["session"]) for one in told if one["state"] == "running"]

    def _listed(self, folder: str) -> list[pafs.FileInfo]:
        selector = pafs.FileSelector(f"{self.root}/{folder}", allow_not_found=True)
        with _lake_errors(self.url):
            found = self.files.get_file_info(selector)
        return [info for info in found if not info.base_name.startswith(".")]


def _s3(url: str) -> tuple[pafs.FileSystem, str]:
    parts = urlsplit(url)
    options: dict[str, Any] = dict(parse_qsl(parts.query))
    if "endpoint_override" in options:
        # Servers other than Amazon's often refuse the trailing checksums that its SDK sends now;
        # what arrived is compared anyhow. Whoever has set it knows better.
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
    """``url`` with a bound for Google's client, which tries for 15 minutes if nobody says."""
    parts = urlsplit(url)
    if parts.scheme != "gs":
        return url
    options = {"retry_limit_seconds": f"{_REQUEST_S:.0f}", **dict(parse_qsl(parts.query))}
    return parts._replace(query=urlencode(options)).geturl()


@contextmanager
def _lake_errors(url: str) -> Iterator[None]:
    """Turn what pyarrow raises into one sentence, in which no credential stands."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = without_secrets(" ".join(str(error).split()), os.environ)
        raise LakeError(f"The lake {url} cannot be used: {text.rstrip('.')}.") from None


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """``text`` without the values of the variables that hold credentials."""
    for name, value in environment.items():
        if len(value) >= _SHORTEST and _SECRET.fullmatch(name):
            text = text.replace(value, "***")
    return text
