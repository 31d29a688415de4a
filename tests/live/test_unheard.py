"""What no shard listened to is a gap in the coverage of the lake."""

from __future__ import annotations

from pathlib import Path

import stocktrace
from stocktrace.intervals import CoverageInterval
from stocktrace.live.fleet import write_uncovered_gaps
from stocktrace.store.coverage import write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.outbox import send_outbox
from tests.conftest import NOON, SESSION

SECOND = 10**9


def test_the_gap_between_a_shard_and_the_one_that_took_over_is_named(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    dead, heir = SESSION, SESSION.replace("3f9a1c", "4f9a1c")
    for session, start, end in ((dead, 0, 40), (heir, 65, 90)):
        layout = Layout(tmp_path / session, lake=lake)
        listening = CoverageInterval("A", NOON + start * SECOND, NOON + end * SECOND, "")
        write_coverage(layout, session, [listening])
        send_outbox(layout, session)
    fleet = SESSION.replace("3f9a1c", "5f9a1c")
    lost = {"A": NOON + 30 * SECOND}  # the last heartbeat: it lived for ten seconds more
    assert write_uncovered_gaps(lake, fleet, lost, NOON + 90 * SECOND, "its shard was lost") == 1
    (gap,) = stocktrace.read_gaps("A", data_dir=lake).to_dict("records")
    assert (gap["start"].value, gap["end"].value) == (NOON + 40 * SECOND, NOON + 65 * SECOND)
    assert (gap["session"], gap["reason"]) == (fleet, "its shard was lost")


def test_a_ticker_that_nobody_took_over_is_a_gap_to_the_end(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + SECOND, "lost") == 1
    (gap,) = stocktrace.read_gaps(data_dir=lake).to_dict("records")
    assert (gap["start"].value, gap["end"].value) == (NOON, NOON + SECOND)


def test_no_gap_is_named_where_somebody_listened(tmp_path: Path) -> None:
    lake = f"file://{tmp_path}/lake"
    layout = Layout(tmp_path / "data", lake=lake)
    write_coverage(layout, SESSION, [CoverageInterval("A", NOON, NOON + 5 * SECOND, "")])
    send_outbox(layout, SESSION)
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + 5 * SECOND, "lost") == 0


def test_the_coverage_of_days_before_is_not_read(tmp_path: Path) -> None:
    damaged = tmp_path / "lake" / "coverage" / "date=2026-11-22" / f"{SESSION}.parquet"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"no Parquet")
    lake = f"file://{tmp_path}/lake"
    assert write_uncovered_gaps(lake, SESSION, {"A": NOON}, NOON + SECOND, "lost") == 1
