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
from stocktrace.ingest.mapping import Mapping
from stocktrace.store import foreign
from stocktrace.store.foreign import Block, Contents, Form

_NS_PER_MS = 10**6
# What JSON takes for a number; any other text stays text, and is refused with a reason.
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
_BETWEEN_CODES = re.compile(r"[\s,]+")

#: When a row was received (epoch ns; ``None``: it does not say) and the frame it is.
Row = tuple[int | None, bytes]


class NothingThere(StoreError):
    """A file without rows."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that has the columns that its mapping tells of."""

    path: Path
    mapping: Mapping
    contents: Contents
    columns: dict[str, str]
    ticker: str | None

    @classmethod
    def of(cls, path: Path, mapping: Mapping) -> Source:
        """Look at a file.

        Raises:
            UsageError: the mapping does not fit it.
            NothingThere: it is empty.
            StoreError: it cannot be read.
        """
        contents = Contents.of(path)
        if not contents.size:
            raise NothingThere(f"{path} is empty.")
        columns = mapping.of_file(path, foreign.names_of(path, _form(mapping)))
        return cls(path, mapping, contents, columns, mapping.ticker_of(path))

    @property
    def facts(self) -> dict[str, str]:
        """What makes its trades these and no others; for the report, and for the tape."""
        return {"content": self.contents.digest, **self.mapping.facts(self.path)}

    def blocks(self) -> Iterator[list[Row]]:
        """Its rows, some at a time.

        Raises:
            StoreError: it is no CSV, or changes meanwhile.
        """
        for block in foreign.read(self.path, _form(self.mapping), self.columns, self.contents):
            yield [*self._rows(block), *map(_odd, block.odd)]

    def _rows(self, block: Block) -> Iterator[Row]:
        texts = block.texts
        if not texts:
            return
        none = itertools.repeat("")
        tickers = (
            itertools.repeat(_quoted(self.ticker))
            if self.ticker is not None
            else (_quoted(self.mapping.ticker_in(text)) for text in texts["symbol"])
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
                f'{{"data":[{{"c":{_codes(codes)},"p":{_number(price)},"s":{ticker},'
                f'"t":{when},"v":{_number(volume)}}}],"type":"trade"}}'
            )
            yield received, row.encode()


def _form(mapping: Mapping) -> Form:
    return Form(mapping.delimiter, mapping.names, mapping.unit, mapping.timezone)


def _odd(line: tuple[str, str]) -> Row:
    row = {"line": line[0], "odd": line[1]}
    return None, json.dumps({"data": [row], "type": "trade"}, separators=(",", ":")).encode()


@lru_cache(1 << 16)
def _quoted(text: str) -> str:
    return json.dumps(text)


@lru_cache(1 << 12)
def _codes(text: str) -> str:
    codes = [code for code in _BETWEEN_CODES.split(text) if code]
    return json.dumps(codes, separators=(",", ":")) if codes else "null"


def _number(text: str) -> str:
    return text if _NUMBER.fullmatch(text) else json.dumps(text)
