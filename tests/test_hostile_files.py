"""Third-party CSV, archives and data folders: they cannot leave their folder or fill the memory."""

from __future__ import annotations

import csv
import gzip
import io
import json
import tracemalloc
from pathlib import Path

import pytest

from stocktrace import cli
from stocktrace.sessions.report import SessionReport
from stocktrace.show.page import render_page
from stocktrace.show.view import ReportView
from stocktrace.store.layout import Layout
from tests import remains
from tests.conftest import SESSION, tree
from tests.test_security import ESCAPE, STEERING

FORMULA = "=cmd|'/x'!A1"


def test_a_third_party_csv_cannot_leave_its_folder_or_run_a_formula(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    symbols = ["../../outside", "=cmd|'/c calc'!A1", ESCAPE, "<script>boom()</script>", "-1", "@A"]
    source = tmp_path / "theirs;touch taken.csv"
    with source.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["symbol", "ts_event", "price", "volume", "conditions"])
        for symbol in symbols:
            rows.writerow([symbol, "2026-11-23 14:30:00Z", "1.5", "100", FORMULA])
    data = tmp_path / "data"
    assert cli.run(["import", str(source), "--jobs", "1", "--data-dir", str(data)]) == 0
    assert not STEERING.search("".join(capsys.readouterr()))
    assert {name for name in tree(tmp_path) if not name.startswith("data/")} == {source.name}
    (report,) = (SessionReport.read(path) for path in (data / "sessions").glob("*.json"))
    assert report.books.recorded == 2, "what can be a ticker: ../../outside and -1"
    assert report.books.quarantined == 4
    assert cli.run(["trades", "../../outside", "--csv", "--data-dir", str(data)]) == 0
    # The data as they are (query/export.py); a cell stays one cell, whatever is in it.
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert row["conditions"] == FORMULA
    page = render_page(ReportView.read(Layout(data), report.session))
    assert "<script>boom" not in page


def test_an_archive_that_unpacks_to_one_endless_line_is_refused_in_little_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "bomb.csv.gz"
    with gzip.open(source, "wb", compresslevel=1) as file:
        file.write(b"symbol,ts_event,price,volume\n")
        for _ in range(64):
            file.write(bytes(1_000_000))
    tracemalloc.start()
    words = ["import", str(source), "--jobs", "1", "--data-dir", str(tmp_path / "data")]
    assert cli.run(words) == 1
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert "it has a line of" in capsys.readouterr().err
    assert most < 32_000_000


def test_a_damaged_archive_is_reported_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "damaged.csv.gz"
    rows = "".join(f"AAPL,2026-11-23 14:30:00Z,{price},1\n" for price in range(1, 9000))
    packed = bytearray(gzip.compress(f"symbol,ts_event,price,volume\n{rows}".encode()))
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    source.write_bytes(packed)
    words = ["import", str(source), "--jobs", "1", "--data-dir", str(tmp_path / "data")]
    assert cli.run(words) == 1
    assert "cannot be read to the end" in capsys.readouterr().err


def test_an_imported_session_whose_report_names_another_folder_is_refused(tmp_path: Path) -> None:
    theirs = remains.dead(tmp_path / "theirs")
    report = json.loads(theirs.report(SESSION).read_text())
    report["windows"] = {"../../../outside": {}}
    report["settings"]["lake"] = f"file://{tmp_path}/outside"
    theirs.report(SESSION).write_text(json.dumps(report))
    before = tree(tmp_path)
    words = ["import", str(theirs.root), "--jobs", "1", "--data-dir", str(tmp_path / "ours")]
    assert cli.run(words) == 1
    assert [name for name in tree(tmp_path) if not name.startswith("ours/")] == before
    assert not (tmp_path / "outside").exists()
