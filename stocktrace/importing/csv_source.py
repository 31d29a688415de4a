"""A third-party CSV file and its mapping, as frames that Finnhub could have sent."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stocktrace.errors import StoreError
from stocktrace.feed import protocol
from stocktrace.importing import csv_reader
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.csv_reader import CsvBlock, CsvFormat, SourceContents
from stocktrace.units import NS_PER_MS

_BETWEEN_CODES = re.compile(r"[\s,]+")

#: When a frame was received (epoch ns; ``None``: the file does not say), and the frame.
TimedFrame = tuple[int | None, bytes]


class EmptySource(StoreError):
    """The file has no rows."""


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A CSV file that has the columns of its mapping."""

    path: Path
    mapping: ColumnMapping
    contents: SourceContents
    columns: dict[str, str]
    ticker: str | None

    @classmethod
    def of(cls, path: Path, mapping: ColumnMapping) -> CsvSource:
        """Check a file against a mapping.

        Raises:
            UsageError: it lacks columns of the mapping.
            EmptySource: it is empty.
            StoreError: it cannot be read.
        """
        contents = SourceContents.of(path)
        if not contents.size:
            raise EmptySource(f"{path} is empty.")
        columns = mapping.of_file(path, csv_reader.read_column_names(path, _csv_format(mapping)))
        return cls(path, mapping, contents, columns, mapping.ticker_of(path))

    @property
    def facts(self) -> dict[str, str]:
        """The facts that determine its trades (content, mapping), for report and tape."""
        return {"content": self.contents.digest, **self.mapping.facts(self.path)}

    def blocks(self) -> Iterator[list[TimedFrame]]:
        """Its rows as frames, block by block.

        Raises:
            StoreError: it is not CSV, or was changed in the meantime.
        """
        for block in csv_reader.read_blocks(
            self.path, _csv_format(self.mapping), self.columns, self.contents
        ):
            yield [*self._frames(block), *map(_unusable_line, block.odd)]

    def _frames(self, block: CsvBlock) -> Iterator[TimedFrame]:
        texts = block.texts
        if not texts:
            return
        tickers = (
            itertools.repeat(self.ticker)
            if self.ticker is not None
            else map(self.mapping.ticker_in, texts["symbol"])
        )
        for time, price, volume, event, received, ticker, codes in zip(  # noqa: B905 - two can be endless
            texts["ts_event"],
            texts["price"],
            texts["volume"],
            block.event,
            block.received,
            tickers,
            texts.get("conditions", itertools.repeat("")),
        ):
            when = time if event is None else event // NS_PER_MS
            row = {"c": _condition_codes(codes), "p": price, "s": ticker, "t": when, "v": volume}
            yield received, protocol.frame_of(row, ("p", "v"))


def _csv_format(mapping: ColumnMapping) -> CsvFormat:
    return CsvFormat(mapping.delimiter, mapping.names, mapping.unit, mapping.timezone)


def _unusable_line(line: tuple[str, str]) -> TimedFrame:
    return None, protocol.frame_of({"line": line[0], "odd": line[1]})


@lru_cache(1 << 12)
def _condition_codes(text: str) -> tuple[str, ...] | None:
    return tuple(filter(None, _BETWEEN_CODES.split(text))) or None
