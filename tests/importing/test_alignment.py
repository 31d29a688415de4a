from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.importing.alignment import LATEST_US, unite_trades
from stocktrace.store.arrow_schema import TRADE_SCHEMA

MS = 1000
#: A trade: time of event (ms), price, volume, conditions.
Trade = tuple[int, float, float, str]
#: When (us) what was received.
Arrival = tuple[int, list[Trade]]


def table(arrivals: Sequence[Arrival]) -> pa.Table:
    rows = [("A", event, stamp, *rest) for stamp, trades in arrivals for event, *rest in trades]
    columns = [list(column) for column in zip(*rows, strict=True)] or [[] for _ in TRADE_SCHEMA]
    return pa.table(columns, names=TRADE_SCHEMA.names).cast(TRADE_SCHEMA)


def values(trades: pa.Table) -> list[Trade]:
    rows = trades.drop_columns(["ts_recv"])
    columns = [rows["ts_event"].cast("int64").to_pylist()]
    columns += [rows[name].to_pylist() for name in ("price", "volume", "conditions")]
    return list(zip(*columns, strict=True))


@st.composite
def streams(draw: st.DrawFn) -> list[Arrival]:
    """Arrivals 100 ms apart; twins come in one, other trades of one price again and again."""
    sizes = draw(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=3), max_size=30))
    found = []
    for at, counts in enumerate(sizes):
        stamp = (1000 + at * 100) * MS
        found.append(
            (
                stamp,
                [
                    (stamp // MS - number, 10.0, 100.0, "1 12" if number else "")
                    for number, count in enumerate(counts)
                    for _ in range(count)
                ],
            )
        )
    return found


#: Which arrivals were heard: stretches, heard and not heard in turn.
masks = st.lists(st.tuples(st.booleans(), st.integers(1, 8)), max_size=8)


def heard(stream: list[Arrival], mask: list[tuple[bool, int]]) -> list[bool]:
    flags = [flag for flag, count in mask for _ in range(count)]
    return (flags + [True] * len(stream))[: len(stream)]


@given(streams(), masks, masks)
def test_the_union_of_two_lossy_copies_is_the_stream_wherever_either_listened(
    stream: list[Arrival], one: list[tuple[bool, int]], other: list[tuple[bool, int]]
) -> None:
    mine, theirs = heard(stream, one), heard(stream, other)
    first = [arrival for arrival, flag in zip(stream, mine, strict=True) if flag]
    second = [arrival for arrival, flag in zip(stream, theirs, strict=True) if flag]
    either = [arrival for arrival, *flags in zip(stream, mine, theirs, strict=True) if any(flags)]
    found = unite_trades(table(first), table(second))
    assert found.trades.equals(table(either))
    assert values(found.trades.filter(pa.array(found.first))) == values(table(first))
    assert values(found.trades.filter(pa.array(found.second))) == values(table(second))


@given(streams(), masks, masks, st.data())
def test_however_late_lines_are_no_trade_is_lost_and_none_is_doubled(
    stream: list[Arrival],
    one: list[tuple[bool, int]],
    other: list[tuple[bool, int]],
    data: st.DataObject,
) -> None:
    mine, theirs = heard(stream, one), heard(stream, other)
    late = st.integers(0, LATEST_US)
    first = [arrival for arrival, flag in zip(stream, mine, strict=True) if flag]
    second = sorted(
        (stamp + data.draw(late), trades)
        for (stamp, trades), flag in zip(stream, theirs, strict=True)
        if flag
    )
    either = [trade for trades in (first, second) for _, some in trades for trade in some]
    found = unite_trades(table(first), table(second))
    counts = [Counter(values(table(side))) for side in (first, second)]
    assert Counter(values(found.trades)) == counts[0] | counts[1]
    assert set(either) == set(values(found.trades))
    assert values(found.trades.filter(pa.array(found.first))) == values(table(first))


def test_of_a_pair_two_stay_whoever_heard_both() -> None:
    pair, single = [(5, 1.0, 1.0, "")] * 2, [(5, 1.0, 1.0, "")]
    for first, second in ((pair, pair), (pair, single), (single, pair)):
        found = unite_trades(table([(6000, first)]), table([(6000, second)]))
        assert values(found.trades) == pair


@pytest.mark.parametrize(("late_us", "count"), [(LATEST_US, 1), (LATEST_US + 1, 2)])
def test_what_comes_much_later_on_the_other_side_is_another_trade(late_us: int, count: int) -> None:
    trade = [(5, 1.0, 1.0, "")]
    found = unite_trades(table([(6000, trade)]), table([(6000 + late_us, trade)]))
    assert len(found.trades) == count


def test_what_one_alone_heard_stands_where_it_stood_among_what_both_heard() -> None:
    """Also where the line of the second was half a second slower."""
    stream = [(at * 10 * MS, [(at, float(at), 1.0, "")]) for at in range(10)]
    slow = [(stamp + 500 * MS, trades) for stamp, trades in stream]
    found = unite_trades(table(stream[:3] + stream[6:]), table(slow))
    assert [price for _, price, *_ in values(found.trades)] == list(range(10))
