"""Stories 21 to 27, 41 and 44: crashes, and what they leave behind."""

from __future__ import annotations

import contextlib
import errno
import gzip
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stocktrace import cli
from stocktrace.errors import ConversionError, StoreError
from stocktrace.record.publish import rebuild_window
from stocktrace.record.recovery import recover
from stocktrace.record.tape_repair import repair_tape
from stocktrace.simulator import ScriptedSource, SyntheticMarket
from stocktrace.store import audit, conversion
from stocktrace.store.dataset import window_files
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader, archive_tape
from stocktrace.verify import verify
from tests.conftest import (
    NOON,
    SESSION,
    Scenario,
    Studio,
    all_of,
    frame,
    played,
    published,
    sent,
    taped,
    tree,
)
from tests.dying import Run
from tests.test_faults.conftest import (
    PART,
    Launch,
    crashed_session,
    findings,
    numbered,
    record,
    recorded,
    report_of,
    snapshot,
)
from tests.waiting import eventually

FRAMES = [frame(("AAPL", n)) for n in range(1, 6)]


def convert(data_dir: Path) -> conversion.PublishedFile | None:
    return conversion.convert_window(Layout(data_dir), PART)


def sealed(data_dir: Path, prices: range = range(1, 6)) -> Path:
    """A sealed segment with its tape, as a session leaves it that crashes before it publishes."""
    crashed_session(data_dir, [frame(("AAPL", n)) for n in prices])
    rebuild_window(Layout(data_dir), PART)
    return Layout(data_dir).csv("AAPL", PART)


def temporaries(data_dir: Path) -> list[str]:
    return [name for name in tree(data_dir) if name.endswith((".tmp", ".open"))]


# Crashes in the middle of a conversion: the patched call kills its process instead.
DEATHS = {
    "before the first row": "parquet.pq.ParquetWriter.write_table = die",
    "before the footer": "parquet.pq.ParquetWriter.close = die",
    "before it is read again": "conversion.hash_windows = die",
    "before the name": "files.publish_file = die",
    "before the source goes": "conversion.PublishedFile = die; Path.unlink = die",
}
PROGRAM = """
import os, sys
from pathlib import Path
from stocktrace.store import conversion, files, parquet
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId

def die(*args, **kwargs):
    os.kill(os.getpid(), {number})

layout = Layout(Path(sys.argv[1]))
(segment,) = layout.root.glob("csv/*/*.csv")
{patch}
conversion.convert_window(layout, WindowId.parse(segment))
"""


def die_converting(run: Run, data_dir: Path, patch: str, number: signal.Signals) -> None:
    program = PROGRAM.format(patch=patch, number=int(number))
    assert run(program, data_dir) == -number


def test_21_a_tape_torn_at_any_byte_has_no_wrong_row_and_reports_the_loss(
    tmp_path: Path,
) -> None:
    text = crashed_session(tmp_path / "whole", FRAMES[:3]).read_bytes()
    lines = text.splitlines(keepends=True)
    begin = len(text) - len(lines[-1]) - len(lines[-2])
    tape = tmp_path / "torn.tape"
    for end in range(begin, len(text) + 1):
        whole, _, torn = text[:end].rpartition(b"\n")
        tape.write_bytes(text[:end])
        reader = TapeReader(tape)
        frames = [
            each for entry in reader if isinstance(entry, TapeFrames) for each in entry.frames
        ]
        assert frames == FRAMES[: len(whole.splitlines()) - 2]  # the first two are marks
        assert (reader.torn_bytes, reader.invalid_lines) == (len(torn), 0)
        assert repair_tape(tape, NOON) == []
        assert tape.read_bytes() == whole + b"\n"
        aside = tape.with_suffix(".torn")
        assert aside.read_bytes() == torn if torn else not aside.exists()
        aside.unlink(missing_ok=True)
    # The same through all of a recovery: around the line feeds, and in the last number.
    for end in (begin, begin + 1, text.rindex(b'"p":3') + 5, len(text) - 1, len(text)):
        root = tmp_path / f"cut{end}"
        tape = crashed_session(root, [])
        tape.write_bytes(text[:end])
        complete = text[:end].count(b"\n") - 2
        torn = text[:end].rpartition(b"\n")[2]
        (one,) = recover(Layout(root))
        assert (one.rows, one.torn_bytes) == (complete, len(torn))
        assert published(root)["AAPL"] == recorded(range(1, complete + 1))
        aside = tape.with_suffix(".torn")
        assert aside.read_bytes() == torn if torn else not aside.exists()


def test_21_a_csv_torn_at_any_byte_is_refused(tmp_path: Path) -> None:
    segment = sealed(tmp_path, range(1, 4))
    text = segment.read_bytes()
    rows = 0
    for end in range(len(text) - 1, 0, -1):
        segment.write_bytes(text[:end])
        if text[:end].endswith(b"\n") and text[:end].count(b"\n") > 1:
            rows += 1  # it lost whole rows, which only a comparison with the tape can show
            continue
        with pytest.raises(ConversionError):
            convert(tmp_path)
        assert segment.read_bytes() == text[:end]
        assert not list(tmp_path.glob("parquet/*/*.parquet"))
        assert temporaries(tmp_path) == []
    assert rows == 2


def test_22_a_torn_tail_is_set_aside_before_anything_is_added(studio: Studio) -> None:
    tape = crashed_session(studio.data_dir, FRAMES)
    text = tape.read_bytes()
    tape.write_bytes(text[:-7])
    log = Layout(studio.data_dir).audit
    audit.AuditLog(log, SESSION)("start")
    audit.AuditLog(log, SESSION)("connect")
    log.write_bytes(log.read_bytes()[:-9])
    with studio.exchange(ScriptedSource(numbered(5, begin=6)), settle=0.05) as exchange:
        record(studio, exchange, played(exchange))
    (rows,) = published(studio.data_dir).values()
    assert sorted(rows) == recorded([1, 2, 3, 4, *range(6, 11)])
    assert tape.with_suffix(".torn").read_bytes() == text.splitlines()[-1][:-6]
    # The log's torn line is a fact of the next one; the chain goes on.
    torn = [json.loads(line).get("torn") for line in log.read_text().splitlines()[:2]]
    assert torn[0] is None
    assert '"event": "connect"' in torn[1]
    assert list(audit.check_audit_log(log)) == []


@pytest.mark.parametrize("death", DEATHS)
def test_23_a_conversion_killed_anywhere_is_done_again(
    tmp_path: Path, death: str, run_dying: Run
) -> None:
    segment = sealed(tmp_path)
    text = segment.read_bytes()
    die_converting(run_dying, tmp_path, DEATHS[death], signal.SIGKILL)
    assert segment.read_bytes() == text
    (one,) = recover(Layout(tmp_path))
    assert one.balanced
    assert temporaries(tmp_path) == []
    assert not segment.exists()
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}
    before = snapshot(tmp_path / "parquet")
    assert recover(Layout(tmp_path)) == []
    assert snapshot(tmp_path / "parquet") == before
    assert findings(tmp_path) == []


@pytest.mark.parametrize("cut", [0, 4, 100, -1], ids=["empty", "magic", "middle", "last byte"])
def test_24_a_truncated_file_is_not_accepted_because_it_exists(tmp_path: Path, cut: int) -> None:
    layout = Layout(tmp_path)
    segment = sealed(tmp_path)
    text = segment.read_bytes()
    convert(tmp_path)
    final = layout.window_file(PART)
    whole = final.read_bytes()

    final.write_bytes(whole[:cut])  # beside its source, which stays
    segment.write_bytes(text)
    with pytest.raises(ConversionError, match="cannot be read"):
        convert(tmp_path)
    with pytest.raises(ConversionError, match="Run `stocktrace verify --repair`, then"):
        recover(layout)
    assert segment.read_bytes() == text

    # Verify finds it, and the tape brings it back.
    found = list(verify(layout, SESSION, repair=True))
    assert final in [finding.path for finding in found]
    recover(layout)
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}
    assert findings(tmp_path) == []


def test_25_of_a_truncated_tape_every_complete_line_is_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tape = crashed_session(tmp_path, [frame(("AAPL", n)) for n in range(1, 5001)])
    lines = tape.read_bytes().splitlines(keepends=True)
    kept, torn = b"".join(lines[:4902]), lines[4902][:50]  # with the two marks 4,900 trades
    tape.write_bytes(kept + torn)
    assert cli.run(["recover", "--data-dir", str(tmp_path)]) == 0
    assert len(published(tmp_path)["AAPL"]) == 4900
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split("  ")[-1].strip() == "books"
    assert shown[1].replace(",", "").split() == [SESSION, "1", "4900", "50", "balance"]


@pytest.mark.parametrize("ending", [".zst", ".gz"])
def test_25_of_a_truncated_compressed_tape_every_complete_line_is_kept(
    tmp_path: Path, ending: str
) -> None:
    # Prices that do not repeat: something that no compressor makes one block of.
    tape = crashed_session(tmp_path, [frame(("AAPL", n * 1.000_37)) for n in range(1, 20_001)])
    whole = tape.read_bytes()
    packed = tape.with_name(tape.name + ending)
    if ending == ".gz":
        packed.write_bytes(gzip.compress(whole))
    else:
        archive_tape(tape, packed)
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size * 9 // 10])
    reader = TapeReader(packed)
    frames = [frame for entry in reader if isinstance(entry, TapeFrames) for frame in entry.frames]
    true = [line.split(b"\t")[1] for line in whole.splitlines()[2:]]
    assert frames == true[: len(frames)]
    assert len(frames) > 10_000
    assert reader.damage is not None
    assert reader.invalid_lines == 0


def test_25_a_truncated_archive_is_reported_and_published_data_stays(
    tmp_path: Path,
) -> None:
    layout = Layout(tmp_path)
    crashed_session(tmp_path, FRAMES)
    recover(layout)
    archived = layout.archived_tape(PART)
    archived.write_bytes(archived.read_bytes()[:-20])
    found = list(verify(layout, SESSION, repair=True))
    assert [finding.path for finding in found] == [archived]
    assert "damaged" in found[0].problem
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}


def test_25_a_truncated_csv_is_reported_and_rebuilt_from_the_tape(tmp_path: Path) -> None:
    layout = Layout(tmp_path)
    segment = sealed(tmp_path)
    whole = segment.read_bytes()
    segment.write_bytes(b"".join(whole.splitlines(keepends=True)[:-2]))  # two rows are missing
    found = list(verify(layout, SESSION, repair=True))
    assert segment in [finding.path for finding in found]
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}


def test_26_rows_in_and_none_out_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = Layout(tmp_path)
    segment = sealed(tmp_path)
    archive_tape(layout.tape(PART), layout.archived_tape(PART))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", lambda *_: None)
    assert cli.run(["convert", "--data-dir", str(tmp_path)]) == 1
    assert "does not hold the 5 rows" in capsys.readouterr().err
    monkeypatch.undo()
    text = segment.read_bytes()
    segment.write_bytes(text.splitlines(keepends=True)[0])
    assert cli.run(["convert", "--data-dir", str(tmp_path)]) == 1
    assert "has rows of another ticker, or none" in capsys.readouterr().err
    assert segment.exists()
    assert published(tmp_path) == {}
    assert temporaries(tmp_path) == []


def test_27_the_source_stays_when_the_writer_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segment = sealed(tmp_path)
    text = segment.read_bytes()
    for broken in ("write_table", "close", "add_key_value_metadata"):
        with monkeypatch.context() as patch:
            patch.setattr(pq.ParquetWriter, broken, failing(getattr(pq.ParquetWriter, broken)))
            with pytest.raises(StoreError, match=r"Cannot write .*Input/output error"):
                convert(tmp_path)
        assert segment.read_bytes() == text
        assert published(tmp_path) == {}
        assert temporaries(tmp_path) == []
    convert(tmp_path)
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}


def failing(works: Callable[..., object]) -> Callable[..., object]:
    """Does its work, or the writer would be closed again when it is forgotten; then fails."""

    def fail(*given: object) -> object:
        works(*given)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    return fail


@pytest.mark.parametrize("death", DEATHS)
def test_27_the_source_stays_when_a_term_comes_in_the_middle(
    tmp_path: Path, death: str, run_dying: Run
) -> None:
    segment = sealed(tmp_path)
    text = segment.read_bytes()
    die_converting(run_dying, tmp_path, DEATHS[death], signal.SIGTERM)
    assert segment.read_bytes() == text
    with contextlib.suppress(FileNotFoundError):
        convert(tmp_path)
    assert published(tmp_path) == {"AAPL": recorded(range(1, 6))}


def test_41_a_killed_capture_is_recovered_by_the_next_without_double_rows(
    studio: Studio, launch: Launch
) -> None:
    tickers = ["AAPL", "MSFT", "BINANCE:BTCUSDT"]
    with studio.exchange(SyntheticMarket(rate=2000), settle=0.05) as exchange:
        process = launch(exchange, *tickers, roll_interval="1s", flush_interval="200ms")
        eventually(lambda: list(studio.data_dir.glob("tape/*/*_00003.tape")))
        eventually(lambda: list(studio.data_dir.glob("parquet/*/*")))
        process.signal(signal.SIGKILL)
        assert process.end()[0] == -signal.SIGKILL
        first = report_of(studio.data_dir)
        assert first.state == "running"
        (connection,) = exchange.connections
        exchange.wait_for(lambda _: not connection.open)
    dead = taped(studio.data_dir, first.session)
    assert connection.frames[: len(dead)] == dead  # in order, none twice, to the last one read
    assert len(dead) > 50
    with studio.exchange(ScriptedSource(numbered(5, "NVDA")), settle=0.05) as exchange:
        record(studio, exchange, played(exchange), ["NVDA"])
    assert published(studio.data_dir) == {**sent(dead), "NVDA": recorded(range(1, 6))}
    states = [path.read_text().count('"recovered"') for path in sessions(studio.data_dir)]
    assert states == [1, 0]
    assert findings(studio.data_dir) == []
    assert recover(Layout(studio.data_dir)) == []


def sessions(data_dir: Path) -> list[Path]:
    return sorted(Layout(data_dir).sessions.glob("*.json"))


def test_44_data_of_a_crashed_session_is_published_while_the_next_begins(studio: Studio) -> None:
    layout = Layout(studio.data_dir)
    # One window is sealed, not converted; another one is open.
    segment = sealed(studio.data_dir)
    later = type(PART)(SESSION, "20261123T143100Z_00002")
    crashed_session(studio.data_dir, [frame(("AAPL", n)) for n in (6, 7)], window=later)
    assert segment.exists()

    def scenario(exchange) -> Scenario:
        yield lambda _: len(window_files(layout, PART.date, SESSION)) == 2
        yield all_of(exchange)

    with studio.exchange(ScriptedSource(numbered(3, "MSFT")), settle=0.05) as exchange:
        record(studio, exchange, scenario(exchange), ["MSFT"])
    assert published(studio.data_dir) == {
        "AAPL": recorded(range(1, 8)),
        "MSFT": recorded(range(1, 4)),
    }
    assert [name for name in tree(studio.data_dir) if name.startswith("csv/")] == []
    assert findings(studio.data_dir) == []
