"""How the trades of a foreign CSV are to be read: which column is what, in which unit and zone."""

from __future__ import annotations

import re
from collections.abc import Mapping as Dict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self, get_args

from stocktrace.end_time import parse_time_zone
from stocktrace.errors import UsageError
from stocktrace.trade import COLUMNS

#: How times are written: a number since 1970 (UTC), or text like ``2026-11-23 14:30:00.123``.
Unit = Literal["s", "ms", "us", "ns", "iso"]
#: Columns that a file must have; the ticker can come from elsewhere.
REQUIRED = ("ts_event", "price", "volume")
# Characters of names in a sentence, at most.
_NAMES = 500
# What stands for the ticker that a column, or the file's name, gave.
_GIVEN = "{}"


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """``columns`` has their name for ours where they differ.

    ``ticker`` is one ticker, or holds ``{}`` for what the column ``symbol`` says; with
    ``ticker_from``, for what the first group of that pattern finds in the file's name. ``names``
    are those of a file's columns that has no line for them. Times of ``iso`` without an offset
    are of ``timezone``.
    """

    columns: Dict[str, str] = field(default_factory=dict)
    unit: Unit = "iso"
    timezone: str = "UTC"
    ticker: str = _GIVEN
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
        **given: str | None,
    ) -> Self:
        """The mapping in these words; each ``None`` is as the preset, or as we write CSV ourselves.

        ``columns`` are like ``price=Price``, ``names`` like ``time,price,size``; ``given`` are the
        other fields.

        Raises:
            UsageError: something is wrong with it.
        """
        known = _preset(preset)
        pairs = dict(known.columns) | dict(map(_key_value, columns))
        if unit is not None and unit not in get_args(Unit):
            raise UsageError(
                f"{unit!r} is no unit of time: use one of {', '.join(get_args(Unit))}."
            )
        if unit is None and preset in _UNIT_NEEDED:
            raise UsageError(f"Say the unit of its times with --unit: {_UNIT_NEEDED[preset]}.")
        texts = {name: text for name, text in given.items() if text is not None}
        mapping = cls(
            pairs,
            known.unit if unit is None else unit,  # type: ignore[arg-type]  # looked at above
            texts.pop("timezone", known.timezone),
            texts.pop("ticker", known.ticker),
            texts.pop("ticker_from", known.ticker_from),
            texts.pop("delimiter", known.delimiter),
            known.names if names is None else tuple(part.strip() for part in names.split(",")),
        )
        mapping.check()
        return mapping

    def check(self) -> None:
        """Find what is wrong whatever the file.

        Raises:
            UsageError: something is.
        """
        parse_time_zone(self.timezone)
        if len(self.delimiter) != 1 or self.delimiter in '"\r\n':
            raise UsageError(f"{self.delimiter!r} parts no columns: give one character, like ';'.")
        if self.ticker.count(_GIVEN) > 1 or not self.ticker:
            raise UsageError(f"{self.ticker!r} is no ticker: write it like AAPL or BINANCE:{{}}.")
        if self.ticker_from and not self._in_name.groups:
            raise UsageError(
                f"{self.ticker_from!r} does not say which part of a file's name is the ticker: "
                "put that in brackets, as in '^([A-Z]+)-trades'."
            )

    @property
    def _in_name(self) -> re.Pattern[str]:
        try:
            return re.compile(self.ticker_from)
        except re.error as error:
            raise UsageError(f"{self.ticker_from!r} is no pattern: {error}.") from None

    def ticker_of(self, path: Path) -> str | None:
        """The ticker of a whole file; ``None`` if each row tells its own.

        Raises:
            UsageError: its name should tell and does not.
        """
        if _GIVEN not in self.ticker:
            return self.ticker
        if not self.ticker_from:
            return None
        found = self._in_name.search(path.name)
        if found is None or not found[1]:
            raise UsageError(f"The name of {path} does not have the pattern {self.ticker_from!r}.")
        return self.ticker.replace(_GIVEN, found[1])

    def ticker_in(self, symbol: str) -> str:
        """The ticker of a row whose column says ``symbol``."""
        return symbol if self.ticker == _GIVEN else self.ticker.replace(_GIVEN, symbol)

    def of_file(self, path: Path, names: Sequence[str]) -> dict[str, str]:
        """Their name for each of our columns that a file with columns ``names`` has.

        Raises:
            UsageError: it lacks one that is needed, or that was said to be there.
        """
        wanted = {ours: self.columns.get(ours, ours) for ours in COLUMNS}
        needed = {*REQUIRED, *self.columns}
        if self.ticker_of(path) is None:
            needed.add("symbol")
        else:
            wanted.pop("symbol")
            needed.discard("symbol")
        for ours in COLUMNS:
            if ours in needed and wanted[ours] not in names:
                raise UsageError(
                    f"{path} has no column {wanted[ours]!r} for {ours}: say which it is with "
                    f"--column {ours}=NAME; it has {_listed(names)}."
                )
            if ours in wanted and names.count(wanted[ours]) > 1:
                raise UsageError(f"{path} has the column {wanted[ours]!r} more than once.")
        return {ours: theirs for ours, theirs in wanted.items() if theirs in names}

    def facts(self, path: Path) -> dict[str, str]:
        """What of it makes the trades of a file these and no others, for its report."""
        facts = {f"column {ours}": theirs for ours, theirs in sorted(self.columns.items())}
        facts |= {"unit": self.unit, "timezone": self.timezone, "delimiter": self.delimiter}
        return {
            **facts,
            "ticker": self.ticker_of(path) or self.ticker,
            "names": ",".join(self.names),
        }


def _listed(names: Sequence[str]) -> str:
    """Names of columns in a sentence; a file that is not CSV can have a megabyte of them."""
    text = ", ".join(filter(None, names)) or "none"
    return text if len(text) <= _NAMES else f"{text[:_NAMES]}…"


def _key_value(text: str) -> tuple[str, str]:
    ours, equals, theirs = text.partition("=")
    if not equals or not theirs or ours not in COLUMNS:
        raise UsageError(
            f"{text!r} maps no column: write it like price=Price, with one of {', '.join(COLUMNS)}."
        )
    return ours, theirs


#: The trades of well-known files.
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
    # https://github.com/binance/binance-public-data: spot/…/trades, which have no line of names.
    "binance-spot": ColumnMapping(
        {"ts_event": "time", "volume": "qty"},
        ticker="BINANCE:{}",
        ticker_from="^([A-Z0-9]+)-trades-",
        names=("id", "price", "qty", "quote_qty", "time", "is_buyer_maker", "is_best_match"),
    ),
}
_UNIT_NEEDED: dict[str | None, str] = {"binance-spot": "ms for days of up to 2024, us from 2025 on"}


def _preset(name: str | None) -> ColumnMapping:
    if name is None:
        return ColumnMapping()
    if name not in PRESETS:
        raise UsageError(f"There is no preset {name!r}: choose from {', '.join(PRESETS)}.")
    return PRESETS[name]
