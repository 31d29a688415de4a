"""Story 62: a data folder that is copied while it records, and once more afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from stocktrace import cli
from stocktrace.sessions.report import SessionReport
from stocktrace.simulator import Simulator
from stocktrace.store.layout import Layout
from tests.conftest import Scenario, Studio, all_of, connected, frame, published, sent
from tests.test_faults.conftest import all_sent, findings, report_of, snapshot

HALF, ALL = 100, 200


def cp(*arguments: Path | str) -> None:
    subprocess.run(["cp", "-a", *map(str, arguments)], check=True)


def copying(exchange: Simulator, data: Path, copy: Path) -> Scenario:
    """The folder is copied when half of the trades are recorded."""
    yield connected
    send(exchange, range(1, HALF))
    yield lambda _: written(data) == 2 * HALF
    cp(data, copy)
    send(exchange, range(HALF, ALL))
    yield all_of(exchange)


def written(data: Path) -> int:
    """Lines of the open segments of both tickers, their headers included."""
    return sum(path.read_bytes().count(b"\n") for path in data.glob("csv/*/*.csv.open"))


def send(exchange: Simulator, prices: range) -> None:
    for price in prices:
        exchange.send_raw(frame(("AAPL", price), ("MSFT", price)))
        exchange.send_raw(frame(("AAPL", -price)))


@pytest.fixture
def twice(studio: Studio, tmp_path: Path) -> tuple[Layout, dict[str, list[object]]]:
    """The copy, and all trades that were sent."""
    copy = tmp_path / "copy"
    with studio.exchange() as exchange:
        studio.record(exchange, ["AAPL", "MSFT"], copying(exchange, studio.data_dir, copy))
        valid = {
            ticker: [row for row in rows if row[1] > 0]
            for ticker, rows in sent(all_sent(exchange)).items()
        }
    assert published(studio.data_dir) == valid
    assert len(list(copy.glob("csv/*/*.csv.open"))) == 2, "copied while it recorded"
    cp(f"{studio.data_dir}/.", copy)
    (stale,) = copy.glob("tape/*/*.tape")
    assert stale.with_suffix(".tape.zst").exists()
    return Layout(copy), valid  # type: ignore[return-value]


def run(command: str, layout: Layout, *flags: str) -> int:
    return cli.run([command, "--data-dir", str(layout.root), *flags])


RECOVER: Callable[[Layout], int] = lambda layout: run("recover", layout)  # noqa: E731
REPAIR: Callable[[Layout], int] = lambda layout: run("verify", layout, "--repair")  # noqa: E731


@pytest.mark.parametrize("steps", [[RECOVER, REPAIR], [REPAIR, RECOVER]], ids=["recover", "repair"])
def test_62_a_copy_made_twice_loses_nothing(
    studio: Studio,
    twice: tuple[Layout, dict[str, list[object]]],
    steps: list[Callable[[Layout], int]],
) -> None:
    copy, valid = twice
    for step in steps:
        step(copy)
        assert published(copy.root) == valid
    assert run("verify", copy) == 0
    assert findings(copy.root) == []
    for folder in ("tape", "parquet", "coverage"):
        assert contents(copy.root / folder) == contents(studio.data_dir / folder)
    assert report_of(copy.root).books == report_of(studio.data_dir).books
    assert list(copy.root.glob("csv/*/*")) == []


def contents(folder: Path) -> dict[str, bytes]:
    return {name: content for name, (_, content) in snapshot(folder).items()}


def test_62_a_copy_whose_tapes_differ_keeps_both_and_says_so(
    twice: tuple[Layout, dict[str, list[object]]], capsys: pytest.CaptureFixture[str]
) -> None:
    copy, valid = twice
    (stale,) = copy.root.glob("tape/*/*.tape")
    text = stale.read_bytes().replace(b'"p":7,', b'"p":8,')
    stale.write_bytes(text)
    archived = stale.with_suffix(".tape.zst")
    before = archived.read_bytes()
    aside = stale.with_name(f"{stale.name}.aside-1")
    run("recover", copy)
    assert archived.read_bytes() == before
    assert aside.read_bytes() == text
    assert published(copy.root) == valid
    report = SessionReport.read(copy.report(report_of(copy.root).session))
    assert [text for text in report.notices if aside.name in text]
    capsys.readouterr()
    assert run("verify", copy, "--repair") == 1
    assert f"{aside}: was set aside" in capsys.readouterr().out
    assert published(copy.root) == valid
    aside.unlink()
    assert run("verify", copy) == 0
