"""Read and write Parquet files: checksums are verified, errors name the file, writes are atomic.

Every Parquet file of the data folder is opened with ``open_parquet`` and, if it is not a file of
trades (``trade_file``), written with ``publish_table``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from stocktrace.errors import ConversionError
from stocktrace.store import files

#: What pyarrow raises for a damaged file; UnicodeDecodeError for a name in its footer.
UNREADABLE = (pa.ArrowException, OSError, UnicodeDecodeError)

# In a lake, so many bytes that are not needed cost less than another request.
_HOLE_BYTES = 1 << 20
_RANGE_BYTES = 1 << 26


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file in the file system of a ``DataSource``; ``size`` is known in a lake."""

    path: str
    size: int | None = None


class RemoteFile:
    """A file in a lake, with those methods of ``pq.ParquetFile`` that readers of a lake need.

    Opening it is one request, for the footer, if its size is known: ``pq.ParquetFile`` asks for the
    size. Reading is one more, or a few if what is read is spread over a large file.
    """

    def __init__(
        self,
        path: str,
        filesystem: pafs.FileSystem,
        size: int | None,
        read_dictionary: Collection[str],
    ) -> None:
        form = ds.ParquetFileFormat(
            read_options=ds.ParquetReadOptions(dictionary_columns=set(read_dictionary)),
            default_fragment_scan_options=ds.ParquetFragmentScanOptions(
                page_checksum_verification=True,
                cache_options=pa.CacheOptions(
                    hole_size_limit=_HOLE_BYTES, range_size_limit=_RANGE_BYTES
                ),
            ),
        )
        self._fragment = form.make_fragment(path, filesystem, file_size=size)
        self.metadata: pq.FileMetaData = self._fragment.metadata

    def read(self, *, use_threads: bool) -> pa.Table:
        """Read all rows."""
        return self._fragment.to_table(use_threads=use_threads)

    def read_row_groups(
        self, groups: Sequence[int], columns: Sequence[str], *, use_threads: bool
    ) -> pa.Table:
        """Read some row groups."""
        part = self._fragment.subset(row_group_ids=list(groups))
        return part.to_table(columns=list(columns), use_threads=use_threads)


@contextlib.contextmanager
def open_parquet(
    path: str | Path,
    schema: pa.Schema | None = None,
    filesystem: pafs.FileSystem | None = None,
    *,
    size: int | None = None,
    read_dictionary: Sequence[int] = (),
) -> Iterator[pq.ParquetFile]:
    """Open a file with page checksums; reading it inside the context raises ``ConversionError``.

    The columns ``read_dictionary``, by number, are read as dictionaries. The ``size`` of a file in
    a lake saves a request (``RemoteFile``).

    Raises:
        ConversionError: The file is damaged, or its columns are not those of ``schema``.
        FileNotFoundError: The file does not exist (any more).
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(reading(path))
        if filesystem is not None and filesystem.type_name != "local":
            names = [] if schema is None else [schema.field(at).name for at in read_dictionary]
            file: Any = RemoteFile(str(path), filesystem, size, names)
        else:
            source = stack.enter_context(pa.OSFile(str(path)))
            file = pq.ParquetFile(
                source, page_checksum_verification=True, read_dictionary=list(read_dictionary)
            )
        columns = file.metadata.schema.to_arrow_schema()
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
