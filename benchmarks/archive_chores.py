"""What a capture's end, a check, an import and a recovery cost beside a year of other trades.

Each is done in turn in an empty data folder and in one with an archive, on the same new trades.
"""

from __future__ import annotations

import contextlib
import io
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pydantic import SecretStr

from benchmarks import bench, market
from benchmarks.archive_data import Archive
from stocktrace import cli, marks
from stocktrace.live.api import capture
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId, compact_utc, new_session
from stocktrace.store.tape import TapeWriter
from stocktrace.units import NS_PER_MS, utc_datetime

TICKERS = market.tickers(20)
_CAPTURE_S = 5.0
_TRADES = 2000
_FRAME_TRADES = 5


def cpu_seconds() -> float:
    """Return the CPU time of this process and of those that it started and that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def run_command(*words: str | Path) -> float:
    """Run a command of stocktrace here; return its CPU time."""
    began = cpu_seconds()
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = cli.run([str(word) for word in words])
    assert status == 0, output.getvalue()
    return cpu_seconds() - began


class Chores:
    """The chores in one data folder; each round has a new session."""

    def __init__(self, root: Path, url: str) -> None:
        self._layout = Layout(root)
        self._url = url
        self._session = ""

    def __call__(self, number: int) -> dict[str, float]:
        """Do all of them once; return the CPU time of each, in ms."""
        whole, end = self._capture()
        data_dir = "--data-dir", self._layout.root
        file = self._layout.root.parent / f"import-{number}.csv"
        _write_csv(file, number)
        seconds = {
            "a capture of 5 s": whole,
            "its end": end,
            "verify SESSION": run_command("verify", self._session, *data_dir),
            "import of a file": run_command("import", file, *data_dir),
            "recover": self._recover(number),
        }
        return {name: value * 1e3 for name, value in seconds.items()}

    def _capture(self) -> tuple[float, float]:
        settings = Settings.load(url=self._url, data_dir=self._layout.root)
        settings = settings.model_copy(update={"finnhub_api_key": SecretStr("demo")})
        ending: list[float] = []

        def watch(status: CaptureStatus) -> None:
            if status.state == "ending":
                ending.append(cpu_seconds())

        began = cpu_seconds()
        report = capture(TICKERS, duration=_CAPTURE_S, settings=settings, on_status=watch)
        ended = cpu_seconds()
        assert report.books.recorded
        self._session = report.session
        return ended - began, ended - ending[0]

    def _recover(self, number: int) -> float:
        stamp = time.time_ns()
        session = new_session(stamp)
        window = WindowId(session, f"{compact_utc(stamp)}_00001")
        tape = TapeWriter(self._layout.tape(window))
        tickers = tuple(TICKERS)
        opening = marks.OpeningMark(stamp, session=session, connected=False, tickers=tickers)
        tape.append_mark(opening)
        tape.append_mark(marks.ConnectedMark(stamp, tickers))
        trades = _trades(number)
        for begin in range(0, len(trades), _FRAME_TRADES):
            frame = market.finnhub_payload(trades[begin : begin + _FRAME_TRADES])
            tape.append(stamp + begin * NS_PER_MS, [frame])
        tape.close()
        return run_command("recover", "--data-dir", self._layout.root)


def _trades(number: int) -> list[market.SyntheticTrade]:
    """Return trades that differ from those of another round by their sizes."""
    trades = market.synthetic_trades(TICKERS, _TRADES)
    now_ms = time.time_ns() // NS_PER_MS
    return [
        market.SyntheticTrade(each.symbol, each.price, each.size + number, now_ms, each.codes)
        for each in trades
    ]


def _write_csv(path: Path, number: int) -> None:
    if path.exists():
        return
    rows = [
        f"{each.symbol},{utc_datetime(each.ms * NS_PER_MS):%Y-%m-%dT%H:%M:%S.%fZ},"
        f"{each.price},{each.size}"
        for each in _trades(number)
    ]
    path.write_text("\n".join(["symbol,ts_event,price,volume", *rows, ""]))


@contextlib.contextmanager
def simulated_market() -> Iterator[str]:
    """Run the simulator in another process; yield its address."""
    command = [sys.executable, "-m", "stocktrace", "simulator", "--rate", "200"]
    with subprocess.Popen(
        [*command, "--symbol-limit", "0"], stdout=subprocess.PIPE, text=True, cwd=market.ROOT
    ) as simulator:
        try:
            assert simulator.stdout is not None
            yield simulator.stdout.readline().strip()
        finally:
            simulator.terminate()


def measure_chores(days: int, rounds: int) -> dict[str, dict[str, list[float]]]:
    """Return the CPU time of each chore in each folder and round, in ms."""
    times: dict[str, dict[str, list[float]]] = {}
    with (
        tempfile.TemporaryDirectory(prefix="stocktrace-bench-") as folder,
        simulated_market() as url,
    ):
        empty, archive = Archive(0, 0, 0, Path(folder)), Archive(days, 100, 40, Path(folder))
        bench.log(f"archive {archive.name}")
        archive.make()
        chores: dict[str, Callable[[int], dict[str, float]]] = {
            "empty": Chores(empty.layout.root, url),
            "archive": Chores(archive.layout.root, url),
        }
        for number in range(rounds + 1):  # the first imports modules and is left out
            bench.log(f"round {number}")
            for name in list(chores)[:: 1 if number % 2 else -1]:
                for chore, ms in chores[name](number).items():
                    if number:
                        times.setdefault(chore, {}).setdefault(name, []).append(ms)
    return times


def chores_table(times: dict[str, dict[str, list[float]]], days: int) -> str:
    """Format the medians, and the ratio of the medians and of the minima."""
    rows = []
    for chore, by_folder in times.items():
        empty, archive = by_folder["empty"], by_folder["archive"]
        middle = [bench.median(values) for values in (empty, archive)]
        rows.append(
            [
                chore,
                *(f"{ms:.0f} ms" for ms in middle),
                f"{middle[1] / middle[0]:.2f}",
                f"{min(archive) / min(empty):.2f}",
            ]
        )
    head = ["CPU of", "in an empty folder", f"beside {days} days of 100 tickers"]
    return bench.table([*head, "medians", "minima"], rows)
