"""What a session leaves behind: folders of dead and of whole sessions, made by hand.

Three windows of one session, with every kind of half-done work that a kill can leave:

1. counted in the report; its tape is archived, and it is published, but the segment of MSFT is
   left;
2. its tape stands; AAPL is sealed, MSFT is open (killed while sealing);
3. its tape ends in a torn line; AAPL is open, with half a row.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import zstandard

from stocktrace.clock import Clock
from stocktrace.marks import Mark, parse_mark
from stocktrace.record.journal import SessionJournal, new_report
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.store import conversion
from stocktrace.store.audit import AuditLog
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.store.segments import HEADER
from stocktrace.store.tape import TapeFrames, TapeWriter, archive_tape
from stocktrace.verify import dates_of_sessions, unknown_files, verify
from tests.conftest import NOON, SESSION, frame, published

SECOND = 10**9
TICKERS = ["AAPL", "MSFT", "7203"]
PARTS = [WindowId(SESSION, f"20261123T143{minute}00Z_0000{minute + 1}") for minute in range(3)]
#: A clock that stands: what is stamped while recovering is the same each time.
STILL = Clock(wall=lambda: NOON + 3600 * SECOND)
#: No process has this number (proc(5), pid_max).
NOBODY = 2**22 + 1
T = NOON // 10**6


def stamp(minute: int, second: float) -> int:
    """A receive time within a window."""
    return NOON + int((minute * 60 + second) * SECOND)


def mark(minute: int, second: float, name: str, **facts: Any) -> Mark:
    return parse_mark(stamp(minute, second), name, facts)


def read(minute: int, second: float, *frames: bytes) -> TapeFrames:
    return TapeFrames(stamp(minute, second), frames)


def opening(minute: int, *, connected: bool = True) -> Mark:
    return mark(minute, 0, "tape", session=SESSION, connected=connected, tickers=TICKERS)


#: What the tapes of the three windows hold; the prices tell the trades apart.
ENTRIES: list[list[Mark | TapeFrames]] = [
    [
        opening(0, connected=False),
        mark(0, 1, "gap", start=stamp(0, 0), reason="connecting"),
        mark(0, 1, "connected", tickers=TICKERS),
        read(0, 2, frame(("AAPL", 1), ("MSFT", 2)), b'{"type":"ping"}', frame(("AAPL", 3))),
        read(0, 3, frame(("MSFT", 4), ("MSFT", -4)), b"not JSON"),
    ],
    [
        opening(1),
        read(1, 5, frame(("AAPL", 5), ("MSFT", 6)), frame(("AAPL", 5))),
        mark(1, 9, "disconnected", reason="closed by the server (1001)"),
        mark(1, 10, "gap", start=stamp(1, 5), reason="closed by the server (1001)"),
        mark(1, 10, "connected", tickers=TICKERS),
        read(1, 11, frame(("MSFT", 7), ("AAPL", -7))),
    ],
    [
        opening(2),
        read(2, 1, frame(("AAPL", 8)), frame(("7203", 9))),
        read(2, 2, frame(("AAPL", 10), ("7203", 11))),
    ],
]
TORN = b'%d\t{"data":[{"c":["1"],"p":12' % stamp(2, 3)

#: Each ticker's prices, in their order.
PRICES = {"AAPL": [1, 3, 5, 5, 8, 10], "MSFT": [2, 4, 6, 7], "7203": [9, 11]}


def write_tape(layout: Layout, window: WindowId, entries: Sequence[Mark | TapeFrames]) -> Path:
    """A tape as the intake writes it."""
    writer = TapeWriter(layout.tapes(window.session) / f"{window.window}.tape")
    for entry in entries:
        if isinstance(entry, Mark):
            writer.append_mark(entry)
        else:
            writer.append(entry.stamp, entry.frames)
    writer.close()
    return writer.path


def running_report() -> SessionReport:
    report = new_report(SESSION, TICKERS, stamp(0, 0), {"roll_interval": 60.0})
    report.host, report.pid = "elsewhere", NOBODY
    return report


def dead(root: Path) -> Layout:
    """The folder of a session that was killed; the module's docstring says how."""
    layout = Layout(root)
    for window, entries in zip(PARTS, ENTRIES, strict=True):
        write_tape(layout, window, entries)
    report = running_report()
    journal = SessionJournal(layout, report, AuditLog(layout.audit, SESSION, STILL))
    report.unpublished.append(PARTS[0].window)
    journal.add_counts(rebuild_window(layout, PARTS[0]))
    journal.save()
    archive_tape(layout.tape(PARTS[0]), layout.archived_tape(PARTS[0]))
    left = layout.csv("MSFT", PARTS[0])
    text = left.read_bytes()
    conversion.convert_window(layout, PARTS[0])
    left.write_bytes(text)
    rebuild_window(layout, PARTS[1])
    layout.csv("MSFT", PARTS[1]).rename(layout.open_csv("MSFT", PARTS[1]))
    with layout.open_csv("AAPL", PARTS[2]).open("wb") as segment:
        segment.write(HEADER + b"AAPL,2026-11-23 14:3")
    with layout.tape(PARTS[2]).open("ab") as tape:
        tape.write(TORN)
    return layout


def litter(layout: Layout) -> None:
    """What a killed process leaves under temporary names."""
    layout.converting.mkdir(exist_ok=True)
    scratch = layout.root / f".scratch.{NOBODY}.abc" / "csv"
    scratch.mkdir(parents=True)
    for path in (
        layout.converting / f".{PARTS[0].stem}.parquet.0a1b2c3d.{NOBODY}.tmp",
        layout.tapes(SESSION) / f".{PARTS[0].window}.tape.zst.{NOBODY}.tmp",
        layout.sessions / f".{SESSION}.json.{NOBODY}.tmp",
        scratch / "half",
    ):
        path.write_bytes(b"half")


def whole(root: Path) -> Layout:
    """The folder of a session that is recorded, published and balanced."""
    layout = dead(root)
    recover(layout, STILL)
    return layout


def copy(layout: Layout, root: Path) -> Layout:
    """The same folder elsewhere."""
    shutil.copytree(layout.root, root)
    return Layout(root)


def snapshot(layout: Layout) -> dict[str, Any]:
    """All files with their contents; of the log and the locks, which tell who and when, none."""
    found: dict[str, Any] = {}
    for path in sorted(layout.root.rglob("*")):
        name = str(path.relative_to(layout.root))
        if (
            name.startswith(("log/", "sessions/finished"))
            or path.suffix == ".lock"
            or path.is_dir()
        ):
            continue
        found[name] = json.loads(path.read_bytes()) if path.suffix == ".json" else path.read_bytes()
    return found


def shorten(layout: Layout, window: WindowId, without: bytes) -> Path:
    """An archive that is whole, of a tape that lacks each line with some text."""
    archived = layout.archived_tape(window)
    with archived.open("rb") as file:
        text = b"".join(zstandard.ZstdDecompressor().read_to_iter(file))
    lines = [line for line in text.splitlines(keepends=True) if without not in line]
    assert len(lines) < text.count(b"\n")
    archived.write_bytes(zstandard.ZstdCompressor(write_checksum=True).compress(b"".join(lines)))
    return archived


def prices(layout: Layout) -> dict[str, list[float]]:
    """Those that are published, by ticker and in their order."""
    return {ticker: [row[1] for row in rows] for ticker, rows in published(layout.root).items()}


def problems(layout: Layout) -> list[str]:
    """Whatever ``stocktrace verify`` finds wrong with the folder."""
    found = list(unknown_files(layout))
    for session, dates in dates_of_sessions(layout).items():
        found += verify(layout, session, dates)
    return [f"{one.path}: {one.problem}" for one in found]
