"""What was received in one window, counted as it is decoded: live, and again from the tape."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from stocktrace.feed.wire import Decoded
from stocktrace.report import Books
from stocktrace.store.quarantine import Refused
from stocktrace.store.read import Read

#: Stands for the ticker of a refused row that names none.
NO_TICKER = ""


@dataclass(slots=True)
class Receipts:
    """Counts of one window; ``refused`` waits for the quarantine, ``last`` is epoch ns."""

    books: Books = field(default_factory=Books)
    received: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    last: dict[str, int] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    refused: list[Refused] = field(default_factory=list)

    def take(self, decoded: Decoded, read: Read) -> None:
        """Count what was read; if anything of it is refused, it is of one arrival."""
        books = self.books
        books.frames += len(decoded.messages)
        books.trade_frames += decoded.trade_frames
        books.control += decoded.control
        books.undecodable += decoded.undecodable
        books.trades += decoded.refused_trades
        self.errors.update(decoded.errors)
        for refusal in decoded.refusals:
            stamp = read.arrivals[0].stamp
            self.refused.append(Refused(stamp, refusal.frame, refusal.row, refusal.reason))
            if refusal.row is not None:
                self.undecoded[_ticker(refusal.row)] += 1
        for ticker, rows in read.parts:
            books.trades += len(rows)
            self.received[ticker] += len(rows)
            self.last[ticker] = read.stamp_of(rows[-1])


def _ticker(row: Any) -> str:
    symbol = row.get("s") if isinstance(row, dict) else None
    return symbol if isinstance(symbol, str) else NO_TICKER
