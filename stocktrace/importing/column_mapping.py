"""The mapping of a third-party CSV file: its columns, its unit of time and its time zone."""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from stocktrace.end_time import parse_time_zone
from stocktrace.errors import UsageError
from stocktrace.trade import COLUMNS

#: How times are written: a number since 1970 (UTC), or text like ``2026-11-23 14:30:00.123``.
Unit = Literal["s", "ms", "us", "ns", "iso"]
#: Columns that a file must have; the ticker may come from elsewhere.
REQUIRED = ("ts_event", "price", "volume")
# The most characters of column names in a message.
_NAMES = 500
# The placeholder for the ticker in a column or in the file's name.
_PLACEHOLDER = "{}"


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """``columns`` maps our column names to those of the file where they differ.

    ``ticker`` is one ticker, or contains ``{}`` for the text of the column ``symbol``; with
    ``ticker_from``, for what the first group of that pattern matches in the file's name. ``names``
    are the columns of a file without a header line. Times of unit ``iso`` without an offset are in
    ``timezone``.
    """

    columns: Dict[str, str] = field(default_factory=dict)
    unit: Unit = "iso"
    timezone: str = "UTC"
    ticker: str = _PLACEHOLDER
    ticker_from: str = ""
    delimiter: str = ","
    names: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        columns: Sequence[str] = (),
        preset: str | None = None,
        unit: str | None = None,
        names: str | None = None,
        **others: str | None,
    ) -> ColumnMapping:
        """Parse a mapping; ``None`` means the preset's value, or that of our own CSV files.

        ``columns`` are like ``price=Price``, ``names`` like ``time,price,size``; ``others`` are the
        other fields.

        Raises:
            UsageError: the mapping is not valid.
        """
        if preset is not None and preset not in PRESETS:
            raise UsageError(f"Unknown preset {preset!r}. Presets: {', '.join(PRESETS)}.")
        known = cls() if preset is None else PRESETS[preset]
        pairs = dict(known.columns) | dict(map(_key_value, columns))
        if unit is not None and unit not in get_args(Unit):
            raise UsageError(
                f"{unit!r} is not a unit of time: use one of {', '.join(get_args(Unit))}."
            )
        if unit is None and preset in _UNIT_NEEDED:
            raise UsageError(f"Set the unit of its times with --unit: {_UNIT_NEEDED[preset]}.")
        changes: dict[str, Any] = {"unit": unit, **others}
        if names is not None:
            changes["names"] = tuple(part.strip() for part in names.split(","))
        changes = {name: value for name, value in changes.items() if value is not None}
        mapping = replace(known, columns=pairs, **changes)
        mapping.check()
        return mapping

    def check(self) -> None:
        """Raise ``UsageError`` if something is not valid that does not depend on a file."""
        parse_time_zone(self.timezone)
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise UsageError(f"{self.delimiter!r} is not a delimiter: use one character, like ';'.")
        if self.ticker.count(_PLACEHOLDER) > 1 or not self.ticker:
            raise UsageError(
                f"{self.ticker!r} is not a ticker: write it like AAPL or BINANCE:{{}}."
            )
        if self.ticker_from and not self._name_pattern.groups:
            raise UsageError(
                f"{self.ticker_from!r} does not say which part of a file's name is the ticker: "
                "put that in brackets, as in '^([A-Z]+)-trades'."
            )

    @property
    def _name_pattern(self) -> re.Pattern[str]:
        try:
            return re.compile(self.ticker_from)
        except re.error as error:
            raise UsageError(f"{self.ticker_from!r} is not a pattern: {error}.") from None

    def ticker_of(self, path: Path) -> str | None:
        """Return the ticker of a whole file, or ``None`` if it is in each row.

        Raises:
            UsageError: the file's name should contain it and does not.
        """
        if _PLACEHOLDER not in self.ticker:
            return self.ticker
        if not self.ticker_from:
            return None
        match = self._name_pattern.search(path.name)
        if match is None or not match[1]:
            raise UsageError(f"The name of {path} does not match {self.ticker_from!r}.")
        return self.ticker.replace(_PLACEHOLDER, match[1])

    def ticker_in(self, symbol: str) -> str:
        """Return the ticker of a row whose column has the text ``symbol``."""
        return symbol if self.ticker == _PLACEHOLDER else self.ticker.replace(_PLACEHOLDER, symbol)

    def of_file(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """Map our column names to those of a file with the columns ``names``.

        Raises:
            UsageError: a required or mapped column is missing, or there twice.
        """
        needed = {"symbol", *REQUIRED, *self.columns}
        wanted = {ours: self.columns.get(ours, ours) for ours in COLUMNS}
        if self.ticker_of(path) is not None:
            wanted.pop("symbol")
        for ours, theirs in wanted.items():
            if ours in needed and theirs not in names:
                raise UsageError(
                    f"{path} has no column {theirs!r} for {ours}: name it with "
                    f"--column {ours}=NAME. Its columns: {_join_names(names)}."
                )
            if names.count(theirs) > 1:
                raise UsageError(f"{path} has the column {theirs!r} more than once.")
        return {ours: theirs for ours, theirs in wanted.items() if theirs in names}

    def facts(self, path: Path) -> dict[str, str]:
        """The facts that determine the trades of a file, for its report."""
        return {
            **{f"column {ours}": theirs for ours, theirs in sorted(self.columns.items())},
            "unit": self.unit,
            "timezone": self.timezone,
            "delimiter": self.delimiter,
            "ticker": self.ticker_of(path) or self.ticker,
            "names": ",".join(self.names),
        }


def _join_names(names: Sequence[str]) -> str:
    """Column names in a message; a file that is not CSV can have a megabyte of them."""
    text = ", ".join(filter(None, names)) or "none"
    return text if len(text) <= _NAMES else f"{text[:_NAMES]}…"


def _key_value(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or not theirs or ours not in COLUMNS:
        raise UsageError(
            f"{text!r} is not a column mapping: write it like price=Price, for one of "
            f"{', '.join(COLUMNS)}."
        )
    return ours, theirs


#: The mappings of well-known files.
PRESETS = {
    # https://massive.com/docs/flat-files (Polygon.io until 2025): us_stocks_sip/trades_v1.
    "massive": ColumnMapping(
        {
            "symbol": "ticker",
            "ts_event": "participant_timestamp",
            "ts_recv": "sip_timestamp",
            "volume": "size",
        },
        unit="ns",
    ),
    # https://github.com/binance/binance-public-data: spot/…/trades, which have no header line.
    "binance-spot": ColumnMapping(
        {"ts_event": "time", "volume": "qty"},
        ticker="BINANCE:{}",
        ticker_from="^([A-Z0-9]+)-trades-",
        names=("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
    ),
}
_UNIT_NEEDED: dict[str | None, str] = {"binance-spot": "ms for days of up to 2024, us from 2025 on"}
