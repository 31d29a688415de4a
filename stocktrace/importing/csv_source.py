"""A foreign CSV file and its mapping, as the frames in which its rows might have come."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from stocktrace.errors import StoreError
from stocktrace.importing import csv_reader
from stocktrace.importing.column_mapping import ColumnMapping
from stocktrace.importing.csv_reader import CsvBlock, CsvFormat, SourceContents

_NS_PER_MS = 10**6
# What JSON takes for a number; any other text stays text, and is refused with a reason.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BETWEEN_CODES = re.compile(r"[\s,]+")

#: When a row was received (epoch ns; ``None``: it does not say) and the frame it is.
CsvRow = tuple[int | None, bytes]


class EmptySource(StoreError):
    """A file without rows."""


@dataclass(frozen=True, slots=True)
class CsvSource:
    """A file that has the columns that its mapping tells of."""

    path: Path
    mapping: ColumnMapping
    contents: SourceContents
    columns: dict[str, str]
    ticker: str | None

    @classmethod
    def of(cls, path: Path, mapping: ColumnMapping) -> CsvSource:
        """Look at a file.

        Raises:
            UsageError: the mapping does not fit it.
            NothingThere: it is empty.
            StoreError: it cannot be read.
        """
        contents = SourceContents.of(path)
        if not contents.size:
            raise EmptySource(f"{path} is empty.")
        columns = mapping.of_file(path, csv_reader.read_column_names(path, _csv_format(mapping)))
        return cls(path, mapping, contents, columns, mapping.ticker_of(path))

    @property
    def facts(self) -> dict[str, str]:
        """What makes its trades these and no others; for the report, and for the tape."""
        return {"content": self.contents.digest, **self.mapping.facts(self.path)}

    def blocks(self) -> Iterator[list[CsvRow]]:
        """Its rows, some at a time.

        Raises:
            StoreError: it is no CSV, or changes meanwhile.
        """
        for block in csv_reader.read_blocks(
            self.path, _csv_format(self.mapping), self.columns, self.contents
        ):
            yield [*self._rows(block), *map(_unusable_line, block.odd)]

    def _rows(self, block: CsvBlock) -> Iterator[CsvRow]:
        texts = block.texts
        if not texts:
            return
        none = itertools.repeat("")
        tickers = (
            itertools.repeat(_json_string(self.ticker))
            if self.ticker is not None
            else (_json_string(self.mapping.ticker_in(text)) for text in texts["symbol"])
        )
        for time, price, volume, event, received, ticker, codes in zip(  # noqa: B905 - two are endless
            texts["ts_event"],
            texts["price"],
            texts["volume"],
            block.event,
            block.received,
            tickers,
            texts.get("conditions", none),
        ):
            when = json.dumps(time) if event is None else event // _NS_PER_MS
            row = (
                f'{{"data":[{{"c":{_condition_codes(codes)},"p":{_json_number(price)},"s":{ticker},'
                f'"t":{when},"v":{_json_number(volume)}}}],"type":"trade"}}'
            )
            yield received, row.encode()


def _csv_format(mapping: ColumnMapping) -> CsvFormat:
    return CsvFormat(mapping.delimiter, mapping.names, mapping.unit, mapping.timezone)


def _unusable_line(line: tuple[str, str]) -> CsvRow:
    row = {"line": line[0], "odd": line[1]}
    return None, json.dumps({"data": [row], "type": "trade"}, separators=(",", ":")).encode()


@lru_cache(1 << 16)
def _json_string(text: str) -> str:
    return json.dumps(text)


@lru_cache(1 << 12)
def _condition_codes(text: str) -> str:
    codes = [code for code in _BETWEEN_CODES.split(text) if code]
    return json.dumps(codes, separators=(",", ":")) if codes else "null"


def _json_number(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else json.dumps(text)
