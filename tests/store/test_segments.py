from __future__ import annotations

import csv
import io
import json
import os
import struct
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import ConversionError, StoreError
from stocktrace.store import conversion, segments
from stocktrace.store.decoded_batch import DecodedRead
from stocktrace.store.layout import Layout
from stocktrace.store.quarantine import QuarantinedRow, parse_quarantine
from stocktrace.store.segments import SegmentWriter, TickerCounts
from stocktrace.store.tape import TapeFrames
from stocktrace.store.trade_file import TradeFileReader
from stocktrace.trade import Trade
from stocktrace.trade_columns import TradeColumns
from tests.conftest import NOON, tree
from tests.store.conftest import PART, T, batch_of

STEM = PART.stem
HEADER = "symbol,ts_event,ts_recv,price,volume,conditions\n"
PRICES = st.floats(0, 1e12, exclude_min=True, exclude_max=True, allow_subnormal=True)
VOLUMES = st.floats(0, 1e15, exclude_max=True, allow_subnormal=True)
CODES = st.none() | st.lists(
    st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='",'), min_size=1)
    .filter(lambda code: len(code) <= 16),
    max_size=4,
).map(tuple)  # fmt: skip
TRADES = st.builds(
    Trade, st.just("AAPL"), PRICES, st.integers(T - 10**9, T + 10**7), VOLUMES, CODES
)


def trade(symbol: str = "AAPL", p: float = 1.5, t: int = T, v: float = 100, c=("1",)) -> Trade:
    return Trade(symbol, p, t, v, c)


def quarantined(layout: Layout) -> list[QuarantinedRow]:
    text = layout.quarantine(PART).read_text(encoding="utf-8")
    return list(parse_quarantine(text.splitlines()))


def test_a_segment_is_the_text_that_the_docs_say(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    trades = [
        trade("BINANCE:BTCUSDT", 0.1, T + 7, 0.011467, None),
        trade("BINANCE:BTCUSDT", 1e-7, T, 0, ()),
    ]
    writer.write(batch_of([*trades, trade(c=("1", "24", "12"))], NOON + 123_456_789))
    assert tree(layout.root) == [f"csv/{t}/{STEM}.csv.open" for t in ("AAPL", "BINANCE%3ABTCUSDT")]
    writer.seal()
    assert tree(layout.root) == [f"csv/{t}/{STEM}.csv" for t in ("AAPL", "BINANCE%3ABTCUSDT")]
    assert layout.csv("AAPL", PART).read_text() == (
        f"{HEADER}AAPL,2026-11-23 14:30:00.000Z,2026-11-23 14:30:00.123456Z,1.5,100,1 24 12\n"
    )
    assert layout.csv("BINANCE:BTCUSDT", PART).read_text() == (
        f"{HEADER}"
        "BINANCE:BTCUSDT,2026-11-23 14:30:00.007Z,2026-11-23 14:30:00.123456Z,0.1,0.011467,\n"
        "BINANCE:BTCUSDT,2026-11-23 14:30:00.000Z,2026-11-23 14:30:00.123456Z,1e-7,0,\n"
    )


@given(st.lists(TRADES, min_size=1, max_size=20))
def test_any_float_and_code_comes_back_exactly_from_csv_and_from_parquet(
    tmp_path_factory: pytest.TempPathFactory, trades: list[Trade]
) -> None:
    layout = Layout(tmp_path_factory.mktemp("data"))
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of(trades))
    writer.seal()
    text = layout.csv("AAPL", PART).read_text()
    wanted = [(t.t, t.p, t.v, " ".join(t.c or ())) for t in trades]
    by_python = [
        (float(row["price"]), float(row["volume"]), row["conditions"])
        for row in csv.DictReader(io.StringIO(text))
    ]
    assert list(map(bits, by_python)) == [bits(row[1:]) for row in wanted]
    converted = conversion.convert_window(layout, PART)
    assert converted is not None
    with TradeFileReader(converted.path) as file:
        columns = file.read().to_pydict()
    times = [int(time.timestamp() * 1000 + 0.5) for time in columns["ts_event"]]
    found = zip(times, columns["price"], columns["volume"], columns["conditions"], strict=True)
    assert list(map(bits, found)) == list(map(bits, wanted))


def bits(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Floats by their bits: 0.0 and -0.0 differ."""
    return tuple(struct.pack("d", x) if isinstance(x, float) else x for x in row)


def test_rows_are_in_the_order_of_arrival_and_equal_trades_are_kept(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    twin = trade(p=2.0)
    writer.write(batch_of([trade(p=3.0, t=T + 9), twin, trade("MSFT"), twin]))
    writer.write(batch_of([trade(p=1.0, t=T - 9), twin], NOON + 1000))
    writer.seal()
    rows = [line.split(",")[3] for line in layout.csv("AAPL", PART).read_text().splitlines()[1:]]
    assert rows == ["3", "2", "2", "1", "2"]
    assert writer.counts == {"AAPL": TickerCounts(5, 0), "MSFT": TickerCounts(1, 0)}


def test_a_refused_row_goes_to_quarantine_with_its_reason_and_its_own_raw_frame(
    layout: Layout,
) -> None:
    good, bad, worse = trade(p=1.0), trade(p=-1.0, v=0.1 + 0.2), trade("MSFT", v=-1.0)
    read = DecodedRead(
        [TapeFrames(NOON, [b"first", b"second"])], TradeColumns.of([[good], [bad, worse]])
    )
    writer = SegmentWriter(layout, PART)
    writer.write([(ticker, [(read, rows)]) for ticker, rows in read.ticker_rows])
    writer.seal()
    assert quarantined(layout) == [
        QuarantinedRow(
            NOON,
            b"second",
            {"c": ["1"], "p": -1.0, "s": "AAPL", "t": T, "v": 0.30000000000000004},
            "price: not above 0",
        ),
        QuarantinedRow(
            NOON,
            b"second",
            {"c": ["1"], "p": 1.5, "s": "MSFT", "t": T, "v": -1.0},
            "volume: below 0",
        ),
    ]
    assert writer.counts == {"AAPL": TickerCounts(1, 1), "MSFT": TickerCounts(0, 1)}
    assert tree(layout.root) == [f"csv/AAPL/{STEM}.csv", f"quarantine/{STEM}.jsonl"]


def test_a_batch_without_valid_rows_writes_no_segment(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(p=0.0), trade("MSFT", p=0.0)]))
    writer.seal()
    assert tree(layout.root) == [f"quarantine/{STEM}.jsonl"]
    assert writer.counts == {"AAPL": TickerCounts(0, 1), "MSFT": TickerCounts(0, 1)}


@pytest.mark.parametrize("symbol", ["", "é", " A", "A\nB", "A,B", 'A"B', "x" * 300, "\x00"])
def test_a_symbol_that_no_file_can_carry_is_quarantined(layout: Layout, symbol: str) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(symbol), trade()]))
    writer.seal()
    (refused,) = quarantined(layout)
    assert (refused.row["s"], refused.reason) == (symbol, "symbol: no ticker")
    assert writer.counts == {symbol: TickerCounts(0, 1), "AAPL": TickerCounts(1, 0)}


@pytest.mark.parametrize(
    "codes", [("a b",), ("1", ""), (",",), ('"',), ("é",), ("1" * 17,), ("\n",)]
)
def test_a_code_that_a_row_cannot_carry_is_quarantined(
    layout: Layout, codes: tuple[str, ...]
) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(c=codes), trade()]))
    writer.seal()
    (refused,) = quarantined(layout)
    assert (tuple(refused.row["c"]), refused.reason) == (codes, "conditions: no code")


def test_a_trade_of_any_time_leaves_the_others_unharmed(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    times = [-(2**63), -1, 0, 2**53, 2**62, 2**63 - 1]
    writer.write(batch_of([trade(t=T), *(trade(t=t) for t in times), trade(t=T)]))
    writer.seal()
    assert writer.counts == {"AAPL": TickerCounts(2, len(times))}
    assert [refused.row["t"] for refused in quarantined(layout)] == times


def test_lags_are_those_of_recorded_trades_only(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(t=T - 40), trade(t=0), trade(t=2**62), trade(t=T - 120)]))
    assert int(writer.lags.counts.sum()) == 2
    assert writer.lags.max_ms == 120.0


def test_rows_that_could_not_be_decoded_are_quarantined(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.quarantine([QuarantinedRow(NOON, b"nonsense", None, "not JSON")])
    writer.write(batch_of([trade(p=0.0)], frame=b"frame"))
    writer.seal()
    assert [each.frame for each in quarantined(layout)] == [b"nonsense", b"frame"]
    assert [json.loads(line)["row"] is None for line in
            layout.quarantine(PART).read_text().splitlines()] == [True, False]  # fmt: skip


def test_the_file_of_a_crashed_attempt_is_written_again(layout: Layout) -> None:
    path = layout.open_csv("AAPL", PART)
    path.parent.mkdir(parents=True)
    path.write_text(f"{HEADER}AAPL,2026-11-2")
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade()]))
    writer.seal()
    assert len(layout.csv("AAPL", PART).read_text().splitlines()) == 2


def test_folders_that_were_made_ahead_leave_one_file_to_open_for_each_ticker(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    tickers = [f"T{number}" for number in range(50)]
    segments.make_folders_ahead(layout, tickers).join()
    assert sorted(path.name for path in (layout.root / "csv").iterdir()) == sorted(tickers)
    calls: Counter[str] = Counter()

    def count_calls(name: str) -> None:
        call = getattr(os, name)

        def counted(*given: Any, **more: Any) -> Any:
            calls[name] += 1
            return call(*given, **more)

        monkeypatch.setattr(os, name, counted)

    for name in ("open", "mkdir", "unlink", "stat", "write", "fsync"):
        count_calls(name)
    writer = SegmentWriter(layout, PART)
    for _ in range(3):
        writer.write(batch_of([trade(ticker) for ticker in tickers]))
    writer.seal()
    # An open quarantine of an earlier attempt would be deleted, because there are no rows for it.
    assert calls == {"open": len(tickers), "write": 3 * len(tickers), "unlink": 1}


def open_descriptors() -> set[int]:
    return {int(path.name) for path in Path("/proc/self/fd").iterdir()}


@pytest.mark.parametrize("count", [3, segments._MANY_SEGMENTS])
def test_segments_stay_open_above_the_descriptors_that_select_needs(
    layout: Layout, count: int
) -> None:
    before = open_descriptors()
    writer = SegmentWriter(layout, PART)
    batch = batch_of([trade(f"T{number}") for number in range(count)])
    writer.write(batch)
    kept = {each for each in open_descriptors() if each >= 1024}
    assert len(kept - before) == count
    writer.write(batch)
    writer.seal()
    assert open_descriptors() == before
    lines = [path.read_text().count("\n") for path in layout.sealed_segments(PART)]
    assert lines == [3] * count


def test_segments_without_a_free_descriptor_are_opened_for_each_batch(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    slots = threading.Semaphore(2)
    monkeypatch.setattr(segments, "_free_descriptors", lambda: slots)
    before = open_descriptors()
    for _ in range(2):
        layout.csv_folder("T0").mkdir(parents=True, exist_ok=True)
        writer = SegmentWriter(layout, PART)
        for _ in range(2):
            writer.write(batch_of([trade(f"T{number}") for number in range(5)]))
            assert len(open_descriptors() - before) == 2
        writer.seal()
        assert open_descriptors() == before
    lines = [path.read_text().count("\n") for path in layout.sealed_segments(PART)]
    assert lines == [3] * 5


def test_the_limit_of_open_files_is_raised_to_what_the_system_allows() -> None:
    program = (
        "import resource\n"
        "from stocktrace.store import segments\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (256, 3000))\n"
        "slots = segments._free_descriptors()\n"
        "print(resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "print(sum(slots.acquire(blocking=False) for _ in range(3000)))\n"
    )
    shown = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert shown == "(3000, 3000)\n1976\n"


def test_folders_that_cannot_be_made_ahead_are_left_to_the_recorder(layout: Layout) -> None:
    (layout.root / "csv").write_text("a file in the way")
    segments.make_folders_ahead(layout, ["AAPL"]).join()
    with pytest.raises(StoreError, match="Cannot write"):
        SegmentWriter(layout, PART).write(batch_of([trade()]))


def test_a_published_ticker_is_counted_again_but_not_written(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART, is_published={"AAPL"}.__contains__)
    writer.write(batch_of([trade(), trade("MSFT"), trade()]))
    writer.seal()
    assert tree(layout.root) == [f"csv/MSFT/{STEM}.csv"]
    assert writer.counts == {"AAPL": TickerCounts(2, 0), "MSFT": TickerCounts(1, 0)}


def test_a_conversion_says_how_many_tickers_are_done(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(ticker) for ticker in ("A", "B", "C")]))
    writer.seal()
    said: list[tuple[int, int]] = []
    conversion.convert_window(
        layout, PART, on_progress=lambda done, total: said.append((done, total))
    )
    assert said == [(1, 3), (2, 3), (3, 3)]


def test_a_segment_that_is_to_be_rebuilt_is_not_sealed(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(), trade("MSFT")]))
    writer.seal(except_tickers={"MSFT"})
    assert tree(layout.root) == [f"csv/AAPL/{STEM}.csv", f"csv/MSFT/{STEM}.csv.open"]


def test_a_batch_spans_tickers_with_one_call_of_the_schema(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def failures(frame: pd.DataFrame) -> dict[int, str]:
        calls.append(len(frame))
        return {}

    monkeypatch.setattr("stocktrace.store.validation.find_failures", failures)
    SegmentWriter(layout, PART).write(batch_of([trade(f"T{n % 50}") for n in range(500)]))
    assert calls == [500]
    lines = [path.read_text().count("\n") for path in layout.open_segments(PART)]
    assert lines == [11] * 50


def test_a_folder_that_cannot_be_written_is_an_error(layout: Layout) -> None:
    (layout.root / "csv").mkdir()
    (layout.root / "csv" / "AAPL").write_text("a file in the way")
    with pytest.raises((StoreError, OSError)):
        SegmentWriter(layout, PART).write(batch_of([trade()]))


def test_receive_times_are_truncated_to_the_microsecond(layout: Layout) -> None:
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade()], NOON + 1999))
    writer.seal()
    (table,) = segments.read_segments([layout.csv("AAPL", PART)])
    assert np.asarray(table["ts_recv"].cast("int64")).tolist() == [NOON // 1000 + 1]


def test_the_data_folder_may_have_any_name(tmp_path: Path) -> None:
    layout = Layout(tmp_path / "a b*[x]?")
    layout.root.mkdir()
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade()]))
    writer.seal()
    assert layout.sealed_segments(PART) == [layout.csv("AAPL", PART)]


def test_small_segments_are_parsed_together_and_large_ones_in_pieces(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_BLOCK_BYTES", 1000)
    counts = {"A": 1, "B": 2, "C": 200, "D": 1, "E": 1}
    writer = SegmentWriter(layout, PART)
    writer.write(batch_of([trade(name, n + 1.0) for name in counts for n in range(counts[name])]))
    writer.seal()
    tables = list(segments.read_segments(layout.sealed_segments(PART)))
    assert [len(set(table["symbol"].to_pylist())) for table in tables[:1] + tables[-1:]] == [3, 3]
    assert max(map(len, tables)) < 40
    rows = [row for table in tables for row in table.select(["symbol", "price"]).to_pylist()]
    wanted = [(name, n + 1.0) for name in counts for n in range(counts[name])]
    assert [tuple(row.values()) for row in rows] == wanted
    assert list(segments.read_segments([])) == []


def test_an_open_segment_is_read_up_to_its_last_complete_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.open"
    row = "AAPL,2026-11-23 14:30:00.000Z,2026-11-23 14:30:00.123456Z,1.5,100,1\n"
    text = HEADER + row + row
    for size in range(len(text) + 1):
        path.write_text(text[:size])
        complete = max(text[:size].count("\n") - 1, 0)
        assert len(segments.read_open_segment(path)) == complete
    path.write_text("a,b\n" + row)
    with pytest.raises(ConversionError, match="does not begin with the header"):
        segments.read_open_segment(path)
