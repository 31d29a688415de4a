"""The runs whose file operations are recorded, and what each had sent or was given.

``prepare`` makes the folder in which a run begins; ``play`` is traced. Both work below ``root``:
``data`` is the data folder. To explore another command, add a run to ``RUNS``.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

from stocktrace import cli
from stocktrace.clock import Clock
from stocktrace.live import session as live_session
from stocktrace.maintenance.compact import compact_days
from stocktrace.maintenance.retention import prune_data
from stocktrace.record.recovery import recover
from stocktrace.simulator import Fault, ScriptedSource
from stocktrace.store import compaction
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames
from tests.conftest import NOON, Studio, frame, played
from tests.recorded import Trade, listening, record
from tests.remains import ENTRIES, SECOND, STILL, dead

#: A clock of days to come, when the dates of all sessions can be compacted.
LATER = Clock(wall=lambda: time.time_ns() + 3 * 86400 * SECOND)
#: Frames that the server sends; a valid one is a trade or two.
Frames = list[bytes]


@dataclass(frozen=True, slots=True)
class Run:
    """``prepare`` and ``play`` return the frames that they had sent, imported or requeued."""

    prepare: Callable[[Path], Frames]
    play: Callable[[Path], Frames]


def _nothing(root: Path) -> Frames:
    (root / "data").mkdir(parents=True)
    return []


def _crashed(root: Path) -> Frames:
    dead(root / "data")
    return [each for entries in ENTRIES for each in _frames(entries)]


def _recovered(root: Path) -> Frames:
    """Two sessions on two dates, published, with a copy of the CSV and a row in quarantine."""
    sent = _crashed(root)
    recover(Layout(root / "data", keeps_csv=True), STILL)
    begin, hour = NOON - 86400 * SECOND, 3600 * SECOND
    times = [begin + number * hour for number in range(20)]
    arrivals: list[tuple[int, list[Trade]]] = [
        (each, [("AAPL", each // 10**6, 300.0 + number, 1.0, ())])
        for number, each in enumerate(times)
    ]
    entries = listening(["AAPL"], begin, begin + 20 * hour, arrivals)
    record(root / "data", "20261122T143000Z_0ff1ce", entries)
    return sent + list(_frames(entries))


def _frames(entries: Iterable[Any]) -> Iterable[bytes]:
    return itertools.chain.from_iterable(
        entry.frames for entry in entries if isinstance(entry, TapeFrames)
    )


def _capture(root: Path, **given: Any) -> Frames:
    """Some windows of a second in all, a disconnect, and rows for the quarantine.

    A tape is synced only when its window ends: no other sync hides one that is missing.
    """
    live_session.STATUS_INTERVAL_S = 0.02
    studio, begin = Studio(root / "data"), time.time_ns()
    t = begin // 10**6
    frames = [
        frame(("AAPL", number), ("MSFT", number + 0.5), ("AAPL", number), t=t)
        if number % 9
        else frame(("MSFT", -number), ("7203", number), t=t)
        for number in range(1, 61)
    ]
    script = [(begin + number * 15 * 10**6, each) for number, each in enumerate(frames)]
    source = ScriptedSource(script, speed=1.0)
    with studio.exchange(source, [Fault("drop", after_trades=60)]) as exchange:
        quick: dict[str, Any] = {
            "roll_size": 3500,
            "sync_interval": "1h",
            "flush_interval": "40ms",
        }
        studio.record(exchange, ["AAPL", "MSFT", "7203"], played(exchange), **(quick | given))
        return [each for connection in exchange.connections for each in connection.frames]


def _capture_for_lake(root: Path) -> Frames:
    """As well, with queues that are too short, a lake, CSV that is kept, and syncs in between."""
    short = {
        "max_pending_rows_per_ticker": 4,
        "csv_retention": "forever",
        "sync_interval": "50ms",
    }
    return _capture(root, lake=(root / "lake").as_uri(), **short)


def _command(root: Path, *words: str) -> Frames:
    with redirect_stdout(StringIO()):
        status = cli.run([words[0], *words[1:], "--data-dir", str(root / "data")])
    if status:
        raise RuntimeError(f"{words} ended with {status}")
    return []


def _import(root: Path) -> Frames:
    """A CSV file with a bad row, then a crashed session of another data folder."""
    _command(root, "import", str(root / "ticks.csv"), "--jobs", "1")
    return _command(root, "import", str(root / "other"), "--jobs", "1")


def _sources(root: Path) -> Frames:
    _nothing(root)
    trades = [(symbol, 500.0 + number) for number in range(20) for symbol in ("MSFT", "AAPL")]
    when = "2026-11-23 14:30:00.000Z"
    rows = [f"{symbol},{when},{price},100,1" for symbol, price in [*trades, ("AAPL", -1.0)]]
    header = "symbol,ts_event,price,volume,conditions"
    (root / "ticks.csv").write_text("\n".join([header, *rows, ""]))
    dead(root / "other")
    return [frame(each) for each in trades] + list(_frames(itertools.chain(*ENTRIES)))


def _compact(root: Path) -> Frames:
    compaction.LISTING_S = 0.0
    compact_days(Layout(root / "data"), clock=LATER)
    return []


def _prune(root: Path) -> Frames:
    prune_data(Layout(root / "data", keeps_csv=True), 0.0, 0.0, LATER)
    return []


def _requeue(root: Path) -> Frames:
    """The rows of a quarantine file, corrected."""
    (path, *_) = sorted((root / "data" / "quarantine").glob("*.jsonl"))
    copy = root / path.name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    rows = [line["row"] for line in lines if line["row"]]
    for row in rows:
        row["p"] = 900.5
    copy.write_text("".join(json.dumps(line) + "\n" for line in lines))
    _command(root, "requeue", str(copy))
    return [json.dumps({"data": [row], "type": "trade"}).encode() for row in rows]


def _recover(root: Path) -> Frames:
    return _command(root, "recover")


def _recover_for_lake(root: Path) -> Frames:
    return _command(root, "recover", "--lake", (root / "lake").as_uri())


RUNS = {
    "capture": Run(_nothing, _capture),
    "capture-lake": Run(_nothing, _capture_for_lake),
    "recover": Run(_crashed, _recover),
    "recover-lake": Run(_crashed, _recover_for_lake),
    "import": Run(_sources, _import),
    "compact": Run(_recovered, _compact),
    "retention": Run(_recovered, _prune),
    "requeue": Run(_recovered, _requeue),
}


def play(work: Path, names: Iterable[str]) -> None:
    """Play runs in prepared folders, and note what they had sent."""
    os.environ["TMPDIR"] = str(work)
    for name in names:
        sent = RUNS[name].play(work / name)
        (work / f"{name}.sent").write_text(json.dumps([each.decode() for each in sent]))


if __name__ == "__main__":
    play(Path(sys.argv[1]), sys.argv[2:])
