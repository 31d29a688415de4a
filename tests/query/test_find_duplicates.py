from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.query.duplicates import (
    MAX_DELAY_US,
    MIN_RUN,
    MIN_RUN_TOGETHER,
    find_duplicates,
    number_keys,
)
from stocktrace.store.arrow_schema import TRADE_SCHEMA

#: A trade: time of event (ms), price, volume, conditions.
Trade = tuple[int, float, float, str]
#: What came with one receipt: its time (us), and the trades.
Arrival = tuple[int, list[Trade]]

MS = 1000


@dataclass(frozen=True, slots=True)
class Stream:
    """Trades with the times at which they were received."""

    rows: list[tuple[int, Trade]]

    @classmethod
    def of(cls, arrivals: Sequence[Arrival]) -> Stream:
        return cls([(stamp, trade) for stamp, trades in arrivals for trade in trades])

    @property
    def trades(self) -> list[Trade]:
        return [trade for _, trade in self.rows]

    def judged(self) -> list[bool]:
        columns = [list(column) for column in zip(*self.trades, strict=True)] or [[], [], [], []]
        event, price, volume, conditions = columns
        received = [stamp for stamp, _ in self.rows]
        schema = TRADE_SCHEMA.remove(TRADE_SCHEMA.get_field_index("symbol"))
        table = pa.table([event, received, price, volume, conditions], names=schema.names)
        times = np.array(received, np.int64)
        return [bool(flag) for flag in find_duplicates(number_keys(table.cast(schema)), times)]

    def originals(self) -> list[Trade]:
        flags = self.judged()
        return [trade for trade, copy in zip(self.trades, flags, strict=True) if not copy]


def honest(sizes: Sequence[int], per_arrival: int = 3, every_us: int = 40 * MS) -> list[Arrival]:
    """A stream in which the i-th key comes ``sizes[i]`` times, in one arrival."""
    arrivals: list[Arrival] = []
    for at in range(0, len(sizes), per_arrival):
        stamp = 1_000_000 + at * every_us
        trades = [
            (stamp // MS + key, 10.0 + key % 7, 100.0, "1 12" if key % 3 else "")
            for key in range(at, min(at + per_arrival, len(sizes)))
            for _ in range(sizes[key])
        ]
        arrivals.append((stamp, trades))
    return arrivals


def in_the_frame(arrivals: Sequence[Arrival], times: int) -> list[Arrival]:
    """A, B, A, B in one frame (2026)."""
    return [(stamp, trades * times) for stamp, trades in arrivals]


def in_the_next(arrivals: Sequence[Arrival], times: int, later_us: int) -> list[Arrival]:
    """Whole frames come again, a little later (2020; #143), after newer ones if need be."""
    all_of = [
        (stamp + time * later_us, trades) for stamp, trades in arrivals for time in range(times)
    ]
    return sorted(all_of, key=lambda arrival: arrival[0])


#: Counts of keys: mostly one, twins and triples among them.
sizes = st.lists(st.sampled_from([1, 1, 1, 1, 2, 2, 3, 4]), min_size=MIN_RUN, max_size=80)


def like_a_market(counts: Sequence[int]) -> bool:
    """Whether no ``ENOUGH`` keys in a row have counts that two or three divide."""
    return not any(
        all(count % number == 0 for count in counts[at : at + MIN_RUN])
        for number in (2, 3)
        for at in range(len(counts) - MIN_RUN + 1)
    )


@given(sizes.filter(like_a_market), st.sampled_from([2, 3]))
def test_without_duplicates_a_doubled_stream_is_the_stream_true_pairs_included(
    counts: list[int], times: int
) -> None:
    stream = honest(counts)
    assert Stream.of(in_the_frame(stream, times)).originals() == Stream.of(stream).trades


@given(
    sizes.filter(like_a_market),
    st.sampled_from([2, 3]),
    st.sampled_from([1, 18 * MS, 96 * MS, 2_000 * MS]),
)
def test_frames_that_come_again_later_are_dropped_and_true_pairs_are_not(
    counts: list[int], times: int, later_us: int
) -> None:
    stream = honest(counts)
    found = Stream.of(in_the_next(stream, times, later_us)).originals()
    assert found == Stream.of(stream).trades


@given(sizes.filter(like_a_market))
def test_an_honest_stream_loses_nothing(counts: list[int]) -> None:
    assert not any(Stream.of(honest(counts)).judged())


@given(st.lists(st.integers(1, 6), max_size=120))
def test_a_trade_of_each_key_always_stays(counts: list[int]) -> None:
    stream = Stream.of(honest(counts))
    came, stayed = Counter(stream.trades), Counter(stream.originals())
    assert came.keys() == stayed.keys()
    assert stayed <= came


def test_a_feed_that_doubles_for_a_while_is_judged_for_that_time() -> None:
    plain = honest([2, 1] * 20 + [1, 2] * 10, per_arrival=2)
    before, doubled, after = plain[:10], plain[10:20], plain[20:]
    found = Stream.of([*before, *in_the_frame(doubled, 2), *after])
    assert found.originals() == Stream.of(plain).trades


def test_duplicates_lost_with_a_connection_do_not_hide_the_others() -> None:
    plain = honest([1, 1, 2, 1] * 20, per_arrival=1)
    arrivals = in_the_frame(plain, 2)
    for at in (5, 30, 79):  # of two of them the copy is lost, of a true pair one of two
        stamp, trades = arrivals[at]
        arrivals[at] = (stamp, trades[:-1])
    assert Stream.of(arrivals).originals() == Stream.of(plain).trades


def test_codes_in_another_order_make_no_other_trade() -> None:
    trades = [(at, 1.0, 1.0, "1 12") for at in range(MIN_RUN)]
    again = [(at, 1.0, 1.0, "12 1") for at in range(MIN_RUN)]
    assert Stream.of([(0, trades), (MS, again)]).originals() == trades


@pytest.mark.parametrize(
    ("late_us", "copied"),
    [(MAX_DELAY_US, MIN_RUN), (MAX_DELAY_US + 1, 0)],
    ids=["within", "beyond"],
)
def test_an_equal_trade_much_later_is_not_a_duplicate(late_us: int, copied: int) -> None:
    trades = [(at, 1.0, 1.0, "") for at in range(MIN_RUN)]
    assert sum(Stream.of([(0, trades), (late_us, trades)]).judged()) == copied


def test_few_trades_are_never_judged() -> None:
    trades = [(at, 1.0, 1.0, "") for at in range(MIN_RUN - 1)]
    assert not any(Stream.of([(0, trades * 2)]).judged())


def test_no_trades_have_no_duplicates() -> None:
    assert Stream([]).judged() == []


@pytest.mark.parametrize("length", [MIN_RUN, MIN_RUN_TOGETHER - 1])
def test_73_a_run_of_orders_that_are_filled_as_two_equal_trades_has_no_duplicates(
    length: int,
) -> None:
    pairs = Stream.of(honest([1] * 20 + [2] * length + [1] * 20, per_arrival=1))
    assert not any(pairs.judged())


@pytest.mark.parametrize("length", [MIN_RUN, MIN_RUN_TOGETHER])
def test_73_frames_that_come_again_or_a_long_run_are_duplicates(length: int) -> None:
    plain = honest([1] * length, per_arrival=1)
    later = Stream.of(in_the_next(plain, 2, 18 * MS))
    assert later.originals() == Stream.of(plain).trades
    together = Stream.of(in_the_frame(plain, 2))
    assert any(together.judged()) == (length == MIN_RUN_TOGETHER)
