from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stocktrace import cli
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from tests import remains
from tests.cli.conftest import STOCKTRACE, ran
from tests.conftest import SESSION, tree
from tests.remains import PARTS, PRICES, TORN, prices, snapshot

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def dead(a_dead_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_dead_session, tmp_path / "data")


@pytest.fixture
def whole(a_whole_session: Layout, tmp_path: Path) -> Layout:
    return remains.copy(a_whole_session, tmp_path / "data")


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command on the data folder; gives status, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.run([*arguments, "--data-dir", str(tmp_path / "data")])
        out, err = capsys.readouterr()
        return status, out, err

    return run


COMMANDS = [["recover"], ["verify"], ["requeue", "x.jsonl"], ["audit"], ["gaps"], ["convert"]]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_missing_data_folder_is_reported_and_not_created(
    run: Command, tmp_path: Path, command: list[str]
) -> None:
    sentence = f"No data folder {tmp_path / 'data'}. Name another one with --data-dir."
    assert run(*command) == (2, "", f"stocktrace: {sentence}\n")
    assert not (tmp_path / "data").exists()


# --- recover -----------------------------------------------------------------------------------


def test_recover_lists_what_it_published(run: Command, dead: Layout) -> None:
    status, out, _ = run("recover")
    assert status == 0
    assert [line.split() for line in out.splitlines()] == [
        ["session", "windows", "trades", "published", "torn", "bytes", "books"],
        [SESSION, "3", "12", str(len(TORN)), "balance"],
    ]
    assert prices(dead) == PRICES
    assert run("recover")[:2] == (0, "nothing to recover\n")


def test_recover_prints_json_for_programs(run: Command, dead: Layout) -> None:
    status, out, _ = run("recover", "--json")
    assert (status, json.loads(out)) == (
        0,
        [
            {
                "session": SESSION,
                "windows": 3,
                "rows": 12,
                "torn_bytes": len(TORN),
                "balanced": True,
                "upload_error": "",
            }
        ],
    )
    assert json.loads(run("recover", "--json")[1]) == []


def test_recover_fails_if_the_books_do_not_balance(run: Command, dead: Layout) -> None:
    report = json.loads(dead.report(SESSION).read_text())
    report["per_ticker"]["AAPL"]["trades"] += 1
    dead.report(SESSION).write_text(json.dumps(report))
    status, out, _ = run("recover")
    assert status == 1
    assert out.splitlines()[1].endswith("DO NOT balance")


def test_recover_says_in_a_sentence_what_it_could_not_do(run: Command, dead: Layout) -> None:
    dead.window_file(PARTS[0]).write_bytes(b"PAR1")
    status, out, err = run("recover")
    assert (status, out) == (1, "")
    assert err.startswith(f"stocktrace: {dead.window_file(PARTS[0])} cannot be read")
    assert err.count("\n") == 1


def test_recover_works_as_a_process(dead: Layout) -> None:
    assert ran(*STOCKTRACE, "recover", "--data-dir", str(dead.root)).returncode == 0
    assert prices(dead) == PRICES


# --- convert -----------------------------------------------------------------------------------


def test_convert_leaves_the_segments_of_a_live_capture_to_it(run: Command, dead: Layout) -> None:
    """It counts what it publishes: with a file converted by another its books would not balance."""
    with lock.hold_lock(dead.lock(SESSION), {}):
        assert run("convert") == (0, "0 windows converted, 0 trades\n", "")
    status, out, err = run("convert")
    assert (status, out) == (1, "1 window converted, 4 trades\n")
    assert err == (
        f"stocktrace: Session {SESSION} crashed before its window {PARTS[1].window} was recorded "
        "completely: run `stocktrace recover`.\n"
    )
    assert run("recover")[0] == 0
    assert run("convert", "--json")[1] == '{"files":0,"rows":0,"failed":[]}\n'
    assert run("verify")[0] == 0
    assert prices(dead) == PRICES


# --- verify ------------------------------------------------------------------------------------


def test_verify_reports_that_nothing_is_wrong(run: Command, whole: Layout) -> None:
    before = snapshot(whole)
    assert run("verify") == (0, "1 session verified, 0 findings\n", "")
    assert run("verify", SESSION) == (0, "1 session verified, 0 findings\n", "")
    assert json.loads(run("verify", "--json")[1]) == []
    assert snapshot(whole) == before


def test_verify_names_the_file_and_repairs_it_on_request(run: Command, whole: Layout) -> None:
    path = whole.window_file(PARTS[1])
    path.unlink()
    status, out, _ = run("verify")
    assert status == 1
    assert f"{path}: is missing\n" in out
    assert out.endswith("1 session verified, 4 findings\n")
    status, out, _ = run("verify", "--repair")
    assert status == 0
    assert f"{path}: is missing (repaired)\n" in out
    assert run("verify") == (0, "1 session verified, 0 findings\n", "")
    assert prices(whole) == PRICES


def test_verify_prints_json_for_programs(run: Command, whole: Layout) -> None:
    path = whole.coverage(SESSION, PARTS[0].date)
    path.unlink()
    status, out, _ = run("verify", "--json")
    assert (status, json.loads(out)) == (
        1,
        [{"session": SESSION, "path": str(path), "problem": "is missing", "repaired": False}],
    )


def test_verify_fails_until_everything_is_repaired(run: Command, whole: Layout) -> None:
    whole.window_file(PARTS[1]).unlink()
    stray = whole.window_file(PARTS[0]).with_name("stray.parquet")
    shutil.copy(whole.window_file(PARTS[0]), stray)
    status, out, _ = run("verify", "--repair")
    assert status == 1
    assert f"{stray} is not a file of stocktrace" in out
    stray.unlink()
    assert run("verify")[0] == 0


def test_verify_of_an_unknown_session_is_wrong_usage(run: Command, whole: Layout) -> None:
    sentence = (
        f"No ended session 20200101T000000Z_000000 in {whole.root}. See `stocktrace sessions`."
    )
    assert run("verify", "20200101T000000Z_000000") == (2, "", f"stocktrace: {sentence}\n")
    with lock.hold_lock(whole.lock(SESSION), {}):
        assert run("verify", SESSION)[0] == 2
        assert run("verify") == (0, "0 sessions verified, 0 findings\n", "")


def test_verify_names_a_session_that_is_being_recovered(
    run: Command, whole: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stocktrace.store.lock.is_locked", lambda _: False)
    with lock.hold_lock(whole.lock(SESSION), {}):
        sentence = f"Session {SESSION} is being recovered; it was not verified."
        assert run("verify") == (
            0,
            "0 sessions verified, 0 findings\n",
            f"stocktrace: {sentence}\n",
        )


def test_verify_fails_for_a_crashed_session_until_it_is_recovered(
    run: Command, dead: Layout
) -> None:
    status, out, _ = run("verify")
    assert status == 1
    assert f"window {PARTS[0].window} is not published: run `stocktrace recover`" in out
    assert run("recover")[0] == 0
    assert run("verify")[0] == 0


# --- requeue -----------------------------------------------------------------------------------


def mended(layout: Layout, folder: Path) -> Path:
    source = layout.quarantine(PARTS[0])
    copy = folder / source.name
    copy.write_text(source.read_text().replace('"p":-4', '"p":4'))
    return copy


def test_requeue_prints_the_books_of_the_rows(run: Command, whole: Layout, tmp_path: Path) -> None:
    status, out, _ = run("requeue", str(mended(whole, tmp_path)))
    assert status == 0
    assert "1 trade = 1 recorded + 0 quarantined; 1 in Parquet" in out
    assert "the books balance" in out
    assert sorted(prices(whole)["MSFT"]) == sorted([*PRICES["MSFT"], 4])
    assert run("requeue", str(mended(whole, tmp_path)))[:2] == (0, "nothing to requeue\n")
    assert run("verify") == (0, "2 sessions verified, 0 findings\n", "")


def test_requeue_prints_json_for_programs(run: Command, whole: Layout, tmp_path: Path) -> None:
    status, out, _ = run("requeue", str(mended(whole, tmp_path)), "--json")
    report: dict[str, Any] = json.loads(out)
    assert (status, report["state"], report["books"]["recorded"]) == (0, "complete", 1)
    assert run("requeue", str(mended(whole, tmp_path)), "--json")[1] == "null\n"


def test_requeue_of_something_else_is_wrong_usage(
    run: Command, whole: Layout, tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("nonsense\n")
    assert run("requeue", str(path)) == (
        2,
        "",
        f"stocktrace: {path}, line 1: not a line of a quarantine file.\n",
    )
    before = tree(whole.root)
    assert run("requeue", str(tmp_path / "none.jsonl"))[0] == 2
    assert tree(whole.root) == before


# --- audit and gaps ----------------------------------------------------------------------------


def test_audit_reports_an_intact_chain_or_the_broken_line(run: Command, whole: Layout) -> None:
    assert run("audit") == (0, f"the hash chain of {whole.audit} is intact\n", "")
    text = whole.audit.read_text()
    whole.audit.write_text(text.replace("recover", "remover", 1))
    status, out, err = run("audit")
    assert (status, out) == (1, "")
    assert err == f"stocktrace: {whole.audit}, line 1: the line was changed or is truncated\n"


def test_gaps_are_listed_with_their_reasons(run: Command, whole: Layout) -> None:
    status, out, _ = run("gaps", "AAPL")
    assert status == 0
    *table, total = out.splitlines()
    shown = [line.split(maxsplit=7) for line in table[1:]]
    told = [(words[:2], words[3], words[5], words[6], words[7].split()) for words in shown]
    assert told == [
        (
            [SESSION, "AAPL"],
            "14:30:00+00:00",
            "14:30:01+00:00",
            "1.0",
            ["connecting", "not", "yet"],
        ),
        (
            [SESSION, "AAPL"],
            "14:31:05+00:00",
            "14:31:10+00:00",
            "5.0",
            ["closed", "by", "the", "server", "(1001)", "not", "yet"],
        ),
    ]
    assert total == "2 gaps (6.0 s), 1 of them connecting; one row per ticker"


def test_gaps_of_all_tickers_can_be_limited_to_a_date_and_a_session(
    run: Command, whole: Layout
) -> None:
    status, out, _ = run("gaps", "--json", "--date", PARTS[0].date, "--session", SESSION)
    rows = [json.loads(line) for line in out.splitlines()]
    assert status == 0
    assert [(row["symbol"], row["reason"]) for row in rows] == [
        *((ticker, "connecting") for ticker in sorted(["7203", "AAPL", "MSFT"])),
        *((ticker, "closed by the server (1001)") for ticker in sorted(["7203", "AAPL", "MSFT"])),
    ]
    assert run("gaps", "--json", "--date", "2020-01-01") == (0, "", "")


def test_a_damaged_coverage_file_is_one_sentence(run: Command, whole: Layout) -> None:
    path = whole.coverage(SESSION, PARTS[0].date)
    path.write_bytes(b"PAR1")
    status, out, err = run("gaps")
    assert (status, out) == (1, "")
    assert err.startswith(f"stocktrace: {path} cannot be read")
