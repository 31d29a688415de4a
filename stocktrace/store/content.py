"""Whether two stretches of rows are equal, however they were cut into batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from stocktrace.store.columns import SCHEMA


@dataclass(slots=True)
class ContentHash:
    """Says whether two stretches of rows are equal, however they were cut into batches."""

    rows: int = 0
    _digests: dict[str, hashlib.blake2b] = field(
        default_factory=lambda: {
            name: hashlib.blake2b(digest_size=16) for name in (*SCHEMA.names, "lengths")
        }
    )

    def update(self, batch: pa.RecordBatch) -> None:
        """Take in the next rows, of ``SCHEMA``."""
        self.rows += batch.num_rows
        for name, digest in self._digests.items():
            if name == "conditions":
                whole = pa.ListArray.from_arrays([0, batch.num_rows], batch[name])
                digest.update(pc.binary_join(whole, "")[0].as_buffer())
            elif name == "lengths":
                digest.update(_values(pc.binary_length(batch["conditions"])))
            else:
                digest.update(_values(batch[name]))

    def hexdigest(self) -> str:
        """The hash of all rows so far."""
        whole = hashlib.blake2b(b"%d" % self.rows, digest_size=16)
        for digest in self._digests.values():
            whole.update(digest.digest())
        return whole.hexdigest()


def _values(array: pa.Array) -> memoryview:
    """The bytes of a fixed-width array without missing values."""
    width = array.type.bit_width // 8
    begin = array.offset * width
    return memoryview(array.buffers()[1])[begin : begin + len(array) * width]


def content_hash(rows: Iterator[pa.RecordBatch]) -> ContentHash:
    """The hash of ``rows``."""
    content = ContentHash()
    for batch in rows:
        content.update(batch)
    return content
