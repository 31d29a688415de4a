"""Bit rot: of every flipped bit that changes what a reader gets, ``verify`` names the file.

A file is read as somebody does who knows nothing of checksums, with and without a filter, and again
with them. The whole 1,000 print their figures: ``python -m tests.verify.test_bit_flips``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pcsv
import pyarrow.parquet as pq
import pytest
import zstandard

from stocktrace.marks import ConnectedMark, Mark, OpeningMark
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import recover
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import synthetic_frames
from stocktrace.store.compaction import compact_date
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from stocktrace.verify import unknown_files, verify
from tests import remains
from tests.conftest import SESSION
from tests.remains import PARTS, STILL, stamp

TICKERS = ["AAPL", "MSFT"]
#: Flips of each kind of file; together 1,000.
ALL = {"tape.zst": 200, "tape": 200, "csv": 200, "parquet": 150, "day": 150, "coverage": 100}
KINDS = list(ALL)


@dataclass(slots=True)
class Figures:
    """What came of the flips of one kind of file."""

    flips: int = 0
    #: A reader without checksums gets other values, or fails to read.
    changed: int = 0
    failed: int = 0
    #: Of the changed ones, those that a reader with checksums gets, too.
    past_checksums: int = 0
    found: int = 0
    #: Changed and not found: there must be none.
    missed: list[str] = field(default_factory=list)


def recorded(root: Path) -> Layout:
    """Three windows of a market; the second is not archived, the third not converted."""
    layout = Layout(root)
    frames = list(synthetic_frames(TICKERS, 900, seed=4, rate=30.0, start=stamp(0, 2)))
    for minute, part in enumerate(PARTS):
        entries: list[Mark | TapeFrames] = [
            OpeningMark(stamp(minute, 0), connected=minute > 0, tickers=tuple(TICKERS))
        ]
        if not minute:
            entries.append(ConnectedMark(stamp(0, 1), tuple(TICKERS)))
        third = len(frames) // 3
        entries += [
            TapeFrames(stamp(minute, 2 + number / 10), (one,))
            for number, (_, one) in enumerate(frames[minute * third : (minute + 1) * third])
        ]
        remains.write_tape(layout, part, entries)
    recover(layout, STILL)
    unarchive(layout, 1)
    # The third window as it is between being sealed and published.
    layout.window_file(PARTS[2]).unlink()
    rebuild_window(layout, PARTS[2])
    report = SessionReport.read(layout.report(SESSION))
    report.unpublished.append(PARTS[2].window)
    report.write(layout.report(SESSION))
    return layout


def compacted(layout: Layout, root: Path) -> Layout:
    """A copy of the folder whose date is compacted."""
    copy = remains.copy(layout, root)
    assert compact_date(copy, PARTS[0].date) is not None
    return copy


def unarchive(layout: Layout, window: int) -> None:
    archived = layout.archived_tape(PARTS[window])
    with archived.open("rb") as file:
        text = b"".join(zstandard.ZstdDecompressor().read_to_iter(file))
    layout.tape(PARTS[window]).write_bytes(text)
    archived.unlink()


def target(layout: Layout, kind: str) -> Path:
    return {
        "tape.zst": layout.archived_tape(PARTS[0]),
        "tape": layout.tape(PARTS[1]),
        "csv": layout.csv("AAPL", PARTS[2]),
        "parquet": layout.window_file(PARTS[0]),
        "day": layout.date_folder(PARTS[0].date) / "day-00001.parquet",
        "coverage": layout.coverage(SESSION, PARTS[0].date),
    }[kind]


# --- readers who know nothing of us ------------------------------------------------------------


def parquet_values(path: Path, *, checked: bool) -> Any:
    """All rows, and what two filters let through: they go by the statistics."""
    options: dict[str, Any] = {"page_checksum_verification": checked, "partitioning": None}
    table = pq.read_table(path, **options)
    column = "price" if "price" in table.schema.names else "start"
    middle = pc.quantile(table[column].cast("int64") if column == "start" else table[column])[0]
    if column == "start":
        middle = pa.scalar(int(middle.as_py()), pa.int64()).cast(table.schema.field(column).type)
    halves = [
        pq.read_table(path, filters=rows, **options).to_pydict()
        for rows in (pc.field(column) > middle, pc.field(column) <= middle)
    ]
    return table.to_pydict(), halves


def tape_values(path: Path) -> Any:
    """The lines that can be read, as what is played again; times as they are published, in us."""
    reader = TapeReader(path)
    found: list[Any] = []
    for entry in reader:
        if isinstance(entry, Mark):
            found.append((entry.stamp // 1000, entry.name, entry.facts))
        else:
            found += [(entry.stamp // 1000, frame) for frame in entry.frames]
    return found, reader.invalid_lines, reader.torn_bytes, reader.damage


def values(path: Path, kind: str, *, checked: bool) -> Any:
    if kind.startswith("tape"):
        return tape_values(path)
    if kind == "csv":
        return pcsv.read_csv(path).to_pydict()
    return parquet_values(path, checked=checked)


READERS_MAY_RAISE = (pa.ArrowException, OSError, ValueError, OverflowError, KeyError, IndexError)


def attempt(path: Path, kind: str, *, checked: bool) -> Any:
    try:
        return values(path, kind, checked=checked)
    except READERS_MAY_RAISE as error:
        return type(error)


def flips(size: int, count: int, seed: str) -> Iterable[tuple[int, int]]:
    pick = random.Random(seed)
    return [(pick.randrange(size), pick.randrange(8)) for _ in range(count)]


def findings(layout: Layout) -> list[Any]:
    return [*unknown_files(layout), *verify(layout, SESSION)]


def names(found: list[Any], path: Path) -> bool:
    return any(one.path == path or str(path) in one.problem for one in found)


def flip_and_look(layout: Layout, kind: str, count: int) -> Figures:
    path = target(layout, kind)
    whole = path.read_bytes()
    before = [attempt(path, kind, checked=checked) for checked in (False, True)]
    assert not isinstance(before[0], type)
    known = len(findings(layout))  # that the third window waits
    figures = Figures()
    for position, bit in flips(len(whole), count, kind):
        data = bytearray(whole)
        data[position] ^= 1 << bit
        path.write_bytes(data)
        figures.flips += 1
        naive, careful = (attempt(path, kind, checked=checked) for checked in (False, True))
        failed, changed = isinstance(naive, type), naive != before[0]
        figures.failed += failed
        figures.changed += changed
        figures.past_checksums += careful != before[1] and not isinstance(careful, type)
        found = findings(layout)
        figures.found += len(found) > known
        if changed and not (len(found) > known and names(found, path)):
            figures.missed.append(f"byte {position} of {len(whole)}, bit {bit}")
    path.write_bytes(whole)
    assert len(findings(layout)) == known
    return figures


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    return recorded(tmp_path_factory.mktemp("flips") / "data")


@pytest.fixture(scope="module")
def layouts(layout: Layout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Layout]:
    """The folder of each kind of file."""
    copy = compacted(layout, tmp_path_factory.mktemp("compacted") / "data")
    return {kind: copy if kind == "day" else layout for kind in KINDS}


def test_the_session_verifies_except_its_unpublished_window(layout: Layout) -> None:
    assert [one.problem for one in findings(layout)] == [
        f"window {PARTS[2].window} is not published: run `stocktrace recover`"
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_that_changes_what_a_reader_gets_is_found(
    layouts: dict[str, Layout], kind: str
) -> None:
    figures = flip_and_look(layouts[kind], kind, ALL[kind] // 16)
    assert figures.missed == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_flipped_bits_that_change_a_value_are_found(
    layouts: dict[str, Layout], kind: str, record_property: Any
) -> None:
    figures = flip_and_look(layouts[kind], kind, ALL[kind])
    record_property(kind, repr(figures))
    assert figures.missed == []


def test_a_published_window_equals_its_tape_before_the_flip(layout: Layout) -> None:
    """What is published stays right when a bit of its tape flips later, repaired or not."""
    path = target(layout, "tape")
    whole = path.read_bytes()
    published = layout.window_file(PARTS[1]).read_bytes()
    price = whole.index(b'"p":1') + 4
    path.write_bytes(whole[:price] + b"2" + whole[price + 1 :])
    assert any(
        one.path == path and not one.repaired for one in verify(layout, SESSION, repair=True)
    )
    assert layout.window_file(PARTS[1]).read_bytes() == published
    path.write_bytes(whole)


def main() -> None:
    """The figures of all 1,000, for the docs."""
    import tempfile

    totals: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        layout = recorded(Path(folder) / "data")
        copy = compacted(layout, Path(folder) / "compacted")
        for kind, count in ALL.items():
            figures = flip_and_look(copy if kind == "day" else layout, kind, count)
            print(kind, figures)  # noqa: T201 - the figures
            for name in ("flips", "changed", "failed", "past_checksums", "found"):
                totals[name] += getattr(figures, name)
            totals["missed"] += len(figures.missed)
    print(dict(totals))  # noqa: T201


if __name__ == "__main__":
    main()
