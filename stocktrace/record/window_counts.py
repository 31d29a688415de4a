"""Counts of the frames and trades of one window, live and again from the tape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from stocktrace.feed import protocol
from stocktrace.sessions.report import Books
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.quarantine import QuarantinedRow
from stocktrace.store.tape import TapeFrames

#: The ticker of a refused row that does not name one.
NO_TICKER = ""


@dataclass(slots=True)
class WindowCounts:
    """Counts of one window; ``refused_rows`` wait for the quarantine, times are in epoch ns."""

    books: Books = field(default_factory=Books)
    received: Counter[str] = field(default_factory=Counter)
    undecoded: Counter[str] = field(default_factory=Counter)
    last_trades: dict[str, int] = field(default_factory=dict)
    errors: Counter[str] = field(default_factory=Counter)
    refused_rows: list[QuarantinedRow] = field(default_factory=list)

    def decode(
        self, arrivals: Sequence[TapeFrames], numbering: TickerCodes
    ) -> Iterator[DecodedRead]:
        """Decode and count ``arrivals``; yield one read, or one each if rows are refused."""
        decoded = protocol.decode(
            list(chain.from_iterable([arrival.frames for arrival in arrivals]))
        )
        if decoded.refusals and len(arrivals) > 1:  # a refused row needs its receive time
            for arrival in arrivals:
                yield from self.decode([arrival], numbering)
            return
        read = DecodedRead(arrivals, decoded.rows, numbering)
        self._count(decoded, read)
        yield read

    def _count(self, decoded: protocol.DecodedFrames, read: DecodedRead) -> None:
        books = self.books
        books.frames += len(decoded.rows.counts)
        books.trade_frames += decoded.trade_frames
        books.control += decoded.control
        books.undecodable += decoded.undecodable
        books.trades += decoded.refused_trades
        self.errors.update(decoded.errors)
        for refusal in decoded.refusals:
            stamp = read.arrivals[0].stamp
            self.refused_rows.append(
                QuarantinedRow(stamp, refusal.frame, refusal.row, refusal.reason)
            )
            if refusal.row is not None:
                self.undecoded[_ticker_of(refusal.row)] += 1
        books.trades += len(read)
        for ticker, rows in read.ticker_rows:
            self.received[ticker] += len(rows)
        self.last_trades.update(read.last_received_ns)


def _ticker_of(row: Any) -> str:
    symbol = row.get("s") if isinstance(row, dict) else None
    return symbol if isinstance(symbol, str) else NO_TICKER
