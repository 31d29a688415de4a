"""Read files of a lake with few requests.

pyarrow asks a store for the size of each file that it opens (HEAD), even if the caller knows it.
Only a file of a dataset is opened with a known size, and then each range is one request (GET).
"""

from __future__ import annotations

import binascii
import codecs
import contextlib
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq

#: pyarrow sends larger files in parts of this size; reading them is two requests.
PART_BYTES = 10 << 20
# So many bytes that are not needed cost less than another request.
_HOLE_BYTES = 1 << 20
_RANGE_BYTES = 1 << 26

# The formats of datasets return tables. In an encoding that decodes bytes to hexadecimal digits,
# any file is a CSV file of one cell.
_ENCODING = "stocktrace_hexadecimal"
# Decoded at a time, so that the feed's thread does not wait for all of it.
_SLICE = 1 << 18
_CELL = pa.schema([("digits", pa.large_string())])


class _Decoder(codecs.IncrementalDecoder):
    def decode(self, data: object, final: bool = False) -> str:  # noqa: FBT001, FBT002
        del final
        view = memoryview(data)  # type: ignore[arg-type]
        return "".join(view[at : at + _SLICE].hex() for at in range(0, len(view), _SLICE))


def _find_codec(name: str) -> codecs.CodecInfo | None:
    if name != _ENCODING:
        return None
    not_used = codecs.lookup("ascii")
    return codecs.CodecInfo(
        not_used.encode, not_used.decode, incrementaldecoder=_Decoder, name=_ENCODING
    )


codecs.register(_find_codec)


def read_object(filesystem: pafs.FileSystem, path: str, size: int) -> bytes:
    """Read a file of ``size`` bytes; up to 10 MB take one request.

    The last bytes are zero if it is shorter: pyarrow does not report that.

    Raises:
        FileNotFoundError: The file does not exist (any more).
    """
    if filesystem.type_name == "local" or size > PART_BYTES:
        with filesystem.open_input_file(path) as file:
            return bytes(file.read())
    options = ds.CsvFragmentScanOptions(
        convert_options=pyarrow.csv.ConvertOptions(column_types=_CELL),
        read_options=pyarrow.csv.ReadOptions(
            encoding=_ENCODING, column_names=_CELL.names, block_size=2 * size + 1, use_threads=False
        ),
    )
    form = ds.CsvFileFormat(default_fragment_scan_options=options)
    with missing_file_errors(filesystem, path):
        fragment = form.make_fragment(path, filesystem, file_size=size)
        cells = fragment.to_table(schema=_CELL, use_threads=False)["digits"]
        views = [memoryview(cell.as_buffer()) for cell in cells]
        return b"".join(
            binascii.unhexlify(view[at : at + 2 * _SLICE])
            for view in views
            for at in range(0, len(view), 2 * _SLICE)
        )


@contextlib.contextmanager
def missing_file_errors(filesystem: pafs.FileSystem, path: str) -> Iterator[None]:
    """Raise ``FileNotFoundError`` if reading fails because the file does not exist (any more).

    Without the request for the size, stores report that in words of their own.
    """
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        if filesystem.get_file_info(path).type == pafs.FileType.NotFound:
            raise FileNotFoundError(f"{path} does not exist.") from error
        raise


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
        with missing_file_errors(filesystem, path):
            self.metadata: pq.FileMetaData = self._fragment.metadata
            self.schema_arrow: pa.Schema = self._fragment.physical_schema

    def read(self, *, use_threads: bool) -> pa.Table:
        """Read all rows."""
        with missing_file_errors(self._fragment.filesystem, self._fragment.path):
            return self._fragment.to_table(use_threads=use_threads)

    def read_row_groups(
        self, groups: Sequence[int], columns: Sequence[str], *, use_threads: bool
    ) -> pa.Table:
        """Read some row groups."""
        part = self._fragment.subset(row_group_ids=list(groups))
        with missing_file_errors(part.filesystem, part.path):
            return part.to_table(columns=list(columns), use_threads=use_threads)
