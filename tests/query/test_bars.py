from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stocktrace
from stocktrace import cli
from stocktrace.errors import SettingsError, UsageError
from stocktrace.intervals import CoverageInterval
from stocktrace.query.bars import BARS
from stocktrace.store import lock
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from tests.conftest import SESSION
from tests.tables import Row, put, table_of

DATE = "2026-11-23"
OTHER = "20261123T150000Z_aaaaaa"
VOLUME_ONLY = {3, 5, 10, 11, 12, 17, 22, 25, 26, 37}
NOTHING = {16, 27, 31, 34, 36, 38, 39, 40, 41}
Bar = tuple[int, Any, Any, Any, Any, float, int, Any]


def ms(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp() * 1000)


NOON = ms("2026-11-23T14:30Z")


def trades_at(*rows: tuple[str, float, float, str] | tuple[str, float]) -> list[Row]:
    return [(ms(row[0]), row[1], *(row[2:] or (100.0, "1"))) for row in rows]


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return Layout(tmp_path)


@pytest.fixture
def publish(layout: Layout) -> Callable[..., None]:
    """Publishes trades, each on the date on which it happened."""

    def publish(rows: Sequence[Row], ticker: str = "AAPL") -> None:
        days: dict[str, list[Row]] = {}
        for row in rows:
            days.setdefault(
                f"{dt.datetime.fromtimestamp(row[0] / 1000, dt.UTC):%Y%m%d}", []
            ).append(row)
        for day, some in days.items():
            put(layout, ticker, WindowId(SESSION, f"{day}T000000Z_00001"), table_of(some))

    return publish


@pytest.fixture
def bars(layout: Layout) -> Callable[..., list[Bar]]:
    """The bars of AAPL as tuples without their symbol and ``gap_seconds``."""

    def bars(every: str = "1m", ticker: str = "AAPL", **question: Any) -> list[Bar]:
        table = stocktrace.read_bars(
            ticker, every, data_dir=layout.root, backend="pyarrow", **question
        )
        columns = [table["start"].cast("int64"), *table.columns[2:-1]]
        return list(zip(*(column.to_pylist() for column in columns), strict=True))

    return bars


def starts(found: Sequence[Bar]) -> list[str]:
    return [f"{dt.datetime.fromtimestamp(bar[0] / 1000, dt.UTC):%d %H:%M}" for bar in found]


# --- against a slow and obvious reference ----------------------------------------------------


def reference(rows: Sequence[Row], every: int, *, codes_matter: bool) -> list[Bar]:
    """One trade after the other, in plain Python."""
    found: dict[int, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row[0]):  # a stable sort
        codes = {int(code) for code in row[3].split()} if codes_matter else set()
        if not codes & NOTHING:
            midnight = row[0] - row[0] % 86_400_000
            found.setdefault(midnight + (row[0] - midnight) // every * every, []).append(row)
    bars: list[Bar] = []
    for start, some in sorted(found.items()):
        prices = [
            row[1]
            for row in some
            if not codes_matter or not {int(c) for c in row[3].split()} & VOLUME_ONLY
        ]
        volume = math.fsum(row[2] for row in some)
        turnover = math.fsum(row[1] * row[2] for row in some)
        ohlc = (prices[0], max(prices), min(prices), prices[-1]) if prices else (None,) * 4
        vwap = pytest.approx(turnover / volume) if volume else None
        trades = sum(row[2] > 0 for row in some)
        bars.append((start, *ohlc, pytest.approx(volume), trades, vwap))
    return bars


ROWS = st.lists(
    st.tuples(
        st.integers(ms("2026-11-23T23:58Z"), ms("2026-11-24T00:02Z")),
        st.floats(0.01, 1e6),
        st.one_of(st.just(0.0), st.floats(1e-6, 1e6)),
        st.lists(st.integers(1, 41).map(str), max_size=2).map(" ".join),
    ),
    max_size=40,
)


@given(rows=ROWS, every=st.sampled_from([1, 999, 1000, 7000, 60_000, 86_400_000]))
def test_bars_equal_those_of_a_simple_loop(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Row], every: int
) -> None:
    """Of two markets, in one call; the codes of one of them are unknown."""
    layout = Layout(tmp_path_factory.mktemp("bars"))
    given = {"MSFT": rows[::2], "BINANCE:BTCUSDT": rows, "AAPL": rows}
    for day in ("20261123", "20261124"):
        for ticker, trades in given.items():
            # The order of arrival is not that of the events: what is received next day may be
            # older.
            some = [row for at, row in enumerate(trades) if (at % 3 == 2) == (day == "20261124")]
            put(layout, ticker, WindowId(SESSION, f"{day}T000000Z_00001"), table_of(some))
    table = stocktrace.read_bars(
        [*given], dt.timedelta(milliseconds=every), data_dir=layout.root, backend="pyarrow"
    )
    assert table["symbol"].to_pylist() == sorted(table["symbol"].to_pylist(), key=[*given].index)
    for ticker, trades in given.items():
        arrived = [row for at, row in enumerate(trades) if at % 3 != 2] + trades[2::3]
        bars = table.filter(pc.field("symbol") == ticker)
        columns = [bars["start"].cast("int64"), *bars.columns[2:-1]]
        found = list(zip(*(column.to_pylist() for column in columns), strict=True))
        assert found == reference(arrived, every, codes_matter=ticker != "BINANCE:BTCUSDT")


# --- what a trade counts towards -------------------------------------------------------------


@pytest.mark.parametrize("code", range(1, 42))
def test_a_sale_condition_says_what_a_trade_counts_towards(
    publish: Callable[..., None], bars: Callable[..., list[Bar]], code: int
) -> None:
    publish([(NOON, 10.0, 100.0, "1"), (NOON + 1, 20.0, 50.0, f"1 {code}")])
    (bar,) = bars()
    if code in NOTHING:
        assert bar == (NOON, 10.0, 10.0, 10.0, 10.0, 100.0, 1, 10.0)
    elif code in VOLUME_ONLY:
        assert bar == (NOON, 10.0, 10.0, 10.0, 10.0, 150.0, 2, pytest.approx(2000 / 150))
    else:
        assert bar == (NOON, 10.0, 20.0, 10.0, 20.0, 150.0, 2, pytest.approx(2000 / 150))


def test_the_stricter_of_two_conditions_holds(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON, 10.0, 100.0, "12 16")])
    assert bars() == []


def test_volume_alone_makes_a_bar_without_prices(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON, 10.0, 5.0, "1 12")])
    assert bars() == [(NOON, None, None, None, None, 5.0, 1, 10.0)]


def test_a_price_update_makes_prices_and_is_not_a_trade(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON, 1.1, 0.0, ""), (NOON + 1, 1.2, 0.0, "")], "OANDA:EUR_USD")
    assert bars(ticker="OANDA:EUR_USD") == [(NOON, 1.1, 1.2, 1.1, 1.2, 0.0, 0, None)]


def test_codes_of_another_market_are_not_taken_for_those_of_the_us(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON, 1.1, 5.0, "16")], "AC.TO")
    assert len(bars(ticker="AC.TO")) == 1


def test_trades_of_one_millisecond_are_in_the_order_of_arrival(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON + 5, 3.0, 1.0, "1"), (NOON, 1.0, 1.0, "1"), (NOON, 2.0, 1.0, "1"),
             (NOON + 5, 4.0, 1.0, "1")])  # fmt: skip
    (bar,) = bars()
    assert (bar[1], bar[4]) == (1.0, 4.0)


# --- where bars begin ------------------------------------------------------------------------


def test_bars_begin_with_the_utc_day_and_its_last_one_is_cut(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish(trades_at(("2026-11-23T06:59Z", 1), ("2026-11-23T07:00Z", 2),
                      ("2026-11-23T23:59Z", 3), ("2026-11-24T00:00Z", 4)))  # fmt: skip
    assert starts(bars("7h")) == ["23 00:00", "23 07:00", "23 21:00", "24 00:00"]


@pytest.mark.parametrize(
    ("date", "opens"),
    [
        ("2026-03-06", "14:30"),
        ("2026-03-09", "13:30"),
        ("2026-10-30", "13:30"),
        ("2026-11-02", "14:30"),
    ],
)
def test_bars_of_a_session_begin_with_the_bell_on_both_sides_of_a_change_of_clocks(
    publish: Callable[..., None], bars: Callable[..., list[Bar]], date: str, opens: str
) -> None:
    bell = ms(f"{date}T{opens}Z")
    publish([(bell + minutes * 60_000, 1.0, 1.0, "1") for minutes in (-1, 0, 59, 60, 389, 390)])
    found = bars("1h", date=date, session="regular")
    assert [bar[0] for bar in found] == [bell, bell + 3_600_000, bell + 6 * 3_600_000]
    assert [bar[6] for bar in found] == [2, 1, 1]


def test_a_half_day_ends_at_one_and_its_last_bar_is_cut(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish(trades_at(("2026-11-27T17:59:59Z", 1), ("2026-11-27T18:00Z", 2),
                      ("2026-11-27T21:59Z", 3), ("2026-11-27T22:00Z", 4)))  # fmt: skip
    read = stocktrace.read_bars
    kept: dict[str, Any] = {"date": "2026-11-27", "empty": "keep", "data_dir": layout.root}
    regular = read("AAPL", "1h", session="regular", **kept)
    assert regular["start"].dt.strftime("%H:%M").tolist() == ["14:30", "15:30", "16:30", "17:30"]
    assert regular["gap_seconds"].tolist() == [3600.0, 3600.0, 3600.0, 1800.0]
    assert regular["trade_count"].tolist() == [0, 0, 0, 1]
    extended = read("AAPL", "4h", session="extended", **kept)
    assert extended["start"].dt.strftime("%H:%M").tolist() == ["09:00", "13:00", "17:00", "21:00"]
    assert extended["trade_count"].tolist() == [0, 0, 2, 1]
    assert extended["gap_seconds"].tolist() == [14400.0, 14400.0, 14400.0, 3600.0]


def test_the_extended_session_of_a_date_continues_after_midnight_utc(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish(trades_at(("2026-11-23T08:59Z", 1), ("2026-11-23T09:00Z", 2), ("2026-11-23T23:59Z", 3),
                      ("2026-11-24T00:59Z", 4), ("2026-11-24T01:00Z", 5)))  # fmt: skip
    found = bars("1h", date="2026-11-23", session="extended")
    assert starts(found) == ["23 09:00", "23 23:00", "24 00:00"]
    assert starts(bars("1h", date="2026-11-23")) == ["23 08:00", "23 09:00", "23 23:00"]


def test_a_day_without_a_session_has_no_bars(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish(trades_at(("2026-11-26T15:00Z", 1)))  # Thanksgiving
    assert bars(date="2026-11-26", session="regular") == []
    assert bars(date="2026-11-26", session="extended", empty="keep") == []
    assert len(bars(date="2026-11-26")) == 1


def test_bounds_cut_trades_and_leave_the_alignment(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish([(NOON + second * 1000, second + 1.0, 1.0, "1") for second in range(180)])
    found = bars(start="2026-11-23T14:30:30Z", end="2026-11-23T14:31:30Z")
    assert [(bar[0], bar[1], bar[4]) for bar in found] == [
        (NOON, 31.0, 60.0),
        (NOON + 60_000, 61.0, 90.0),
    ]


def test_sessions_of_several_days_follow_one_another(
    publish: Callable[..., None], bars: Callable[..., list[Bar]]
) -> None:
    publish(trades_at(("2026-11-20T15:00Z", 1), ("2026-11-21T15:00Z", 2), ("2026-11-23T15:00Z", 3),
                      ("2026-11-24T15:00Z", 4)))  # fmt: skip
    assert starts(bars("1d", session="regular")) == ["20 14:30", "23 14:30", "24 14:30"]
    bounded = bars("1d", session="regular", start="2026-11-21", end="2026-11-24T15:00Z")
    assert starts(bounded) == ["23 14:30"]


# --- whether we listened ---------------------------------------------------------------------


def listened(layout: Layout, session: str, *stretches: tuple[str, str, str]) -> None:
    write_coverage(
        layout,
        session,
        [
            CoverageInterval(
                "AAPL", ms(f"{DATE}T{start}Z") * 10**6, ms(f"{DATE}T{end}Z") * 10**6, reason
            )
            for start, end, reason in stretches
        ],
    )


def test_an_empty_bar_shows_whether_nobody_traded_or_nobody_listened(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([(NOON, 1.0, 1.0, "1")])
    listened(layout, SESSION, ("14:29:00", "14:31:30", ""), ("14:31:30", "14:32:45.5", "lost"),
             ("14:32:45.5", "14:34:00", ""))  # fmt: skip
    frame = stocktrace.read_bars(
        "AAPL", start="2026-11-23T14:30Z", end="2026-11-23T14:36Z", empty="keep",
        data_dir=layout.root,
    )  # fmt: skip
    assert frame["trade_count"].tolist() == [1, 0, 0, 0, 0, 0]
    assert frame["gap_seconds"].tolist() == [0.0, 30.0, 45.5, 0.0, 60.0, 60.0]
    assert frame["volume"].tolist() == [1.0, 0, 0, 0, 0, 0]
    assert frame["close"].isna().tolist() == [False, True, True, True, True, True]


def test_one_session_that_listens_is_enough(layout: Layout, publish: Callable[..., None]) -> None:
    publish([(NOON, 1.0, 1.0, "1")])
    listened(layout, SESSION, ("14:30:00", "14:30:20", ""), ("14:30:20", "14:31:00", "lost"))
    listened(layout, OTHER, ("14:30:10", "14:30:50", ""))
    assert stocktrace.read_bars("AAPL", data_dir=layout.root)["gap_seconds"].tolist() == [10.0]


def test_the_gaps_of_a_running_session_are_unknown_until_it_ends(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish(
        [(NOON - 120_000, 1.0, 1.0, "1"), (NOON, 1.0, 1.0, "1"), (NOON + 60_000, 1.0, 1.0, "1")]
    )
    listened(layout, OTHER, ("14:30:00", "14:31:00", ""))
    with lock.hold_lock(layout.lock(SESSION), {}):  # since 14:29:58
        gaps = stocktrace.read_bars("AAPL", data_dir=layout.root, backend="pyarrow")["gap_seconds"]
    assert gaps.to_pylist() == [60.0, 0.0, None]


def test_empty_bars_are_kept_between_the_first_trade_and_the_last_of_any_ticker(
    layout: Layout, publish: Callable[..., None]
) -> None:
    publish([(NOON, 1.0, 1.0, "1"), (NOON + 60_000, 1.0, 1.0, "1")])
    publish([(NOON + 180_000, 1.0, 1.0, "1")], "MSFT")
    frame = stocktrace.read_bars(["AAPL", "MSFT"], empty="keep", data_dir=layout.root)
    assert frame["symbol"].tolist() == ["AAPL"] * 4 + ["MSFT"] * 4
    assert frame["trade_count"].tolist() == [1, 1, 0, 0, 0, 0, 0, 1]


# --- the face --------------------------------------------------------------------------------


def test_each_backend_returns_the_documented_columns(
    layout: Layout, publish: Callable[..., None]
) -> None:
    import polars as pl

    publish([(NOON, 1.5, 2.0, "1"), (NOON + 60_000, 2.5, 2.0, "12")])
    read = stocktrace.read_bars
    frame = read("AAPL", data_dir=layout.root)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == {
        "symbol": "str",
        "start": "datetime64[ms, UTC]",
        **dict.fromkeys(("open", "high", "low", "close", "volume"), "float64"),
        "trade_count": "int64",
        "vwap": "float64",
        "gap_seconds": "float64",
    }
    table = read("AAPL", data_dir=layout.root, backend="pyarrow")
    assert table.schema == BARS
    polars = read("AAPL", data_dir=layout.root, backend="polars")
    assert isinstance(polars, pl.DataFrame)
    assert polars.to_dicts() == table.to_pylist()
    assert isinstance(frame, pd.DataFrame)
    assert isinstance(table, pa.Table)


@pytest.mark.parametrize("empty", ["drop", "keep"])
@pytest.mark.parametrize("session", [None, "regular"])
def test_a_ticker_without_trades_has_no_bars(layout: Layout, empty: Any, session: Any) -> None:
    table = stocktrace.read_bars(
        "MSFT", empty=empty, session=session, data_dir=layout.root, backend="pyarrow"
    )
    assert table.schema == BARS
    assert len(table) == 0


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ({"every": "2d"}, "at most a day, not 2d"),
        ({"every": "1.5ms"}, "whole milliseconds"),
        ({"every": "soon"}, "'soon' is not a duration"),
        ({"session": "night"}, "Unknown session 'night'"),
        ({"empty": "fill"}, "not 'fill'"),
        ({"date": DATE, "start": DATE}, "not both"),
    ],
)
def test_wrong_arguments_are_refused(
    layout: Layout, question: dict[str, Any], sentence: str
) -> None:
    with pytest.raises((UsageError, SettingsError), match=sentence):
        stocktrace.read_bars("AAPL", data_dir=layout.root, **question)


def test_the_command_prints_bars_and_writes_files(
    layout: Layout, publish: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    publish([(NOON, 1.5, 2.0, "1")])
    listened(layout, SESSION, ("14:00:00", "15:00:00", ""))
    where = ["--data-dir", str(layout.root)]
    assert cli.run(["bars", "AAPL", "--date", DATE, "--csv", *where]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "symbol,start,open,high,low,close,volume,trade_count,vwap,gap_seconds",
        '"AAPL",2026-11-23 14:30:00.000Z,1.5,1.5,1.5,1.5,2,1,1.5,0',
    ]
    assert cli.run(["bars", "AAPL", "--json", *where]) == 0
    assert capsys.readouterr().out.startswith(
        '{"symbol":"AAPL","start":"2026-11-23T14:30:00.000000Z"'
    )
    assert cli.run(["bars", "AAPL", "--every", "1h", "--session", "regular", *where]) == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["AAPL", DATE, "14:30:00+00:00"]
    file = layout.root / "bars.parquet"
    assert cli.run(["bars", "AAPL", "--parquet", str(file), *where]) == 0
    assert pq.read_table(file)["close"].to_pylist() == [1.5]
