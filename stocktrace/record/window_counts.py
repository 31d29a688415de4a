"""Counts of the frames and trades of one window, live and again from the tape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain

from stocktrace.feed import protocol
from stocktrace.sessions.report import Books
from stocktrace.store.decoded_batch import DecodedRead, TickerCodes
from stocktrace.store.quarantine import QuarantinedRow
from stocktrace.store.tape import TapeFrames


@dataclass(slots=True)
class WindowCounts:
    """Counts of one window; ``refused_rows`` wait for the quarantine, times are in epoch ns.

    ``undecoded`` are the refused rows by ticker, which is "" if the row does not name one.
    """

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
        books = self.books
        books.frames += len(decoded.rows.counts)
        books.trade_frames += decoded.trade_frames
        books.control += decoded.control
        books.undecodable += decoded.undecodable
        books.trades += decoded.refused_trades + len(read)
        self.errors.update(decoded.errors)
        for refusal in decoded.refusals:
            row = refusal.row
            self.refused_rows.append(
                QuarantinedRow(arrivals[0].stamp, refusal.frame, row, refusal.reason)
            )
            if row is not None:
                symbol = row.get("s") if isinstance(row, dict) else None
                self.undecoded[symbol if isinstance(symbol, str) else ""] += 1
        for ticker, rows in read.ticker_rows:
            self.received[ticker] += len(rows)
        self.last_trades.update(read.last_received_ns)
        yield read
