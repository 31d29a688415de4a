"""Read and write Parquet files: checksums are verified, errors name the file, writes are atomic.

Every Parquet file of the data folder is opened with ``open_parquet`` and, if it is not a file of
trades (``trade_file``), written with ``publish_table``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import files
from stocktrace.store.remote import RemoteFile, read_object

#: What pyarrow raises for a damaged file; UnicodeDecodeError for a name in its footer.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)

# In a lake, a file of so many bytes is read as a whole: the footer would be a request of its own.
_SMALL_BYTES = 1 << 18


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file in the file system of a ``DataSource``; ``size`` is known in a lake."""

    path: str
    size: int | None = None


@contextlib.contextmanager
def open_parquet(
    path: str | Path,
    schema: pa.Schema | None = None,
    filesystem: pafs.FileSystem | None = None,
    *,
    size: int | None = None,
) -> Iterator[pq.ParquetFile]:
    """Open a file with page checksums; reading it inside the context raises ``ConversionError``.

    Columns that are dictionaries in ``schema`` are read as dictionaries. The ``size`` of a file in
    a lake saves a request (``RemoteFile``).

    Raises:
        ConversionError: The file is damaged, or its columns are not those of ``schema``.
        FileNotFoundError: The file does not exist (any more).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(path))
        dictionaries = {
            field.name: at
            for at, field in enumerate(() if schema is None else schema)
            if pa.types.is_dictionary(field.type)
        }
        file: Any
        if filesystem is None or filesystem.type_name == "local":
            source = stack.enter_context(pa.OSFile(str(path)))
        elif size is not None and size <= _SMALL_BYTES:
            source = pa.BufferReader(read_object(filesystem, str(path), size))
        else:
            source = None
            file = RemoteFile(str(path), filesystem, size, dictionaries)
        if source is not None:
            file = pq.ParquetFile(
                source,
                page_checksum_verification=True,
                read_dictionary=[*dictionaries.values()],
                pre_buffer=False,  # it reads in other threads, which costs more than it saves
            )
        # Not ``metadata.schema``: with its footer, that is a reference cycle of some kilobytes,
        # and a capture, which rarely looks for cycles, would keep thousands of them.
        columns = file.schema_arrow
        if schema is not None and not columns.equals(schema):
            raise ConversionError(f"{path} has unexpected columns: {columns}.")
        yield file


@contextlib.contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Translate what pyarrow raises for a damaged file into ``ConversionError``."""
    try:
        yield
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error


def read_table(
    path: str | Path,
    schema: pa.Schema,
    filesystem: pafs.FileSystem | None = None,
    size: int | None = None,
) -> pa.Table:
    """Read a whole small file.

    Raises:
        ConversionError: The file is missing or damaged, or its columns are not those of ``schema``.
    """
    try:
        with open_parquet(path, schema, filesystem, size=size) as file:
            return file.read(use_threads=False)
    except FileNotFoundError as error:
        raise ConversionError(f"{path} cannot be read: {error}.") from error


def publish_table(
    table: pa.Table, final: Path, temporary: Path | None = None, *, store_schema: bool = True
) -> None:
    """Write a small file as a whole: a reader sees the old file or the new one.

    It is written beside ``temporary``, by default beside ``final``. That must be another folder if
    readers take every file beside ``final`` for data.
    """
    temporary = temporary or final
    files.make_folder(final.parent)
    files.make_folder(temporary.parent)
    with files.locked_temporary(temporary) as path:
        with files.disk_errors(path):
            pq.write_table(
                table, path, compression="zstd", write_page_checksum=True, store_schema=store_schema
            )
        files.publish_file(path, final)
