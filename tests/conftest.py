"""What all tests stand on: a clean environment, and captures directed by scenarios."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hypothesis
import pyarrow.dataset as ds
import pytest
from pydantic import SecretStr

from stocktrace.live.api import capture
from stocktrace.live.control import CaptureControl
from stocktrace.live.publishing import Publisher
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.simulator import Fault, FrameSource, ScriptedSource, Simulator, SimulatorSettings
from stocktrace.store import compaction
from stocktrace.store.layout import Layout
from stocktrace.store.tape import TapeFrames, TapeReader
from tests import order
from tests.dying import Run, dying
from tests.tls import Authority

# A script that starts the tests with "&" has them ignore SIGINT, and with ``nohup`` SIGHUP: the
# processes that they start would ignore them, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

#: 2026-11-23 14:30 UTC, epoch ns: when what tests write by hand was received.
NOON = 1_795_444_200_000_000_000
SESSION = "20261123T142958Z_3f9a1c"
WINDOW = "20261123T143000Z_00001"

#: A trade as (event time in ms, price, volume, conditions): what must come back.
Row = tuple[int, float, float, str]
#: Yields what must hold before it goes on; when it is through, the capture is stopped.
Scenario = Generator[Callable[[CaptureStatus], bool], None, None]

# Two noisy cores: a slow example is no failing one. `make test-slow` draws many.
hypothesis.settings.register_profile("few", deadline=None, max_examples=40)
hypothesis.settings.register_profile("many", deadline=None, max_examples=200)
hypothesis.settings.load_profile("few")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: order.rank(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> order.Scheduling:
    return order.scheduling(config, log)


def _clean(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """No settings but the defaults, no ``.env``, a folder of one's own, no wait for the disk."""
    for name in list(os.environ):
        if name.startswith("STOCKTRACE_") or name == "FINNHUB_API_KEY":
            patch.delenv(name)
    temporary = folder / ".tmp"
    temporary.mkdir()
    patch.setenv("TMPDIR", str(temporary))
    patch.setattr(tempfile, "tempdir", str(temporary))
    patch.setattr(os, "fsync", lambda _: None)  # what the disk holds is asked elsewhere
    patch.setattr(compaction, "LISTING_S", 0.0)  # nobody else lists these folders
    patch.chdir(folder)


@pytest.fixture(scope="session", autouse=True)
def clean_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For what is made once for many tests."""
    with pytest.MonkeyPatch.context() as patch:
        _clean(patch, tmp_path_factory.mktemp("session"))
        yield


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the working folders of tests are: pytest reads a whole folder to number the next."""
    return tmp_path_factory.mktemp("cwd")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, folders: Path, clean_session: None) -> None:
    """For each test; its ``tmp_path`` stays empty."""
    _clean(monkeypatch, Path(tempfile.mkdtemp(dir=folders)))


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    """Closes the sockets of a test."""
    with ExitStack() as stack:
        yield stack


@pytest.fixture(scope="session")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def trusted(
    authority: Authority, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Authority:
    """The authority; whoever connects trusts it."""
    file = tmp_path_factory.mktemp("tls") / "authority.pem"
    authority.write(file)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    return authority


@dataclass(slots=True)
class Studio:
    """Makes exchanges and captures them, with a key of its own."""

    data_dir: Path
    key: str = field(default_factory=lambda: f"key{os.urandom(8).hex()}")
    handle: CaptureControl = field(default_factory=CaptureControl)
    statuses: list[CaptureStatus] = field(default_factory=list)
    authority: Authority | None = None  # exchanges then speak TLS

    def exchange(
        self, source: FrameSource | None = None, faults: Iterable[Fault] = (), **given: Any
    ) -> Simulator:
        """An exchange that knows the key and plays nothing, or ``source``."""
        options: dict[str, Any] = {
            "ping_period": 0.0, "symbol_limit": 0, "keep": True, "tls": self.authority, **given
        }  # fmt: skip
        return Simulator(
            source or ScriptedSource([]), SimulatorSettings(key=self.key, **options), faults
        )

    def settings(self, exchange: Simulator | str, **given: Any) -> Settings:
        """The settings for a capture of ``exchange``; it dials again at once."""
        url = exchange if isinstance(exchange, str) else exchange.url
        soon = {"backoff_base": "20ms", "backoff_cap": "50ms", "backoff_floor": "10ms"}
        options = {"url": url, "data_dir": self.data_dir, "min_free_space": "0", **soon, **given}
        key = {"finnhub_api_key": SecretStr(self.key)}
        return Settings.load(**options).model_copy(update=key)

    def record(
        self,
        exchange: Simulator | str,
        tickers: Sequence[str] = ("AAPL",),
        scenario: Scenario | None = None,
        *,
        lasting: float = 30.0,
        publisher: Publisher | None = None,
        **given: Any,
    ) -> SessionReport:
        """Capture until the scenario is through; one that hangs ends after ``lasting`` seconds."""
        watch = Director(scenario, self.handle, self.statuses) if scenario else self.statuses.append
        return capture(
            tickers,
            duration=lasting,
            settings=self.settings(exchange, **given),
            publisher=publisher,
            on_status=watch,
            control=self.handle,
        )

    def files(self) -> list[str]:
        """All files in the data folder, relative."""
        return tree(self.data_dir)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one name in the audit log."""
        lines = (self.data_dir / "log" / "audit.jsonl").read_text(encoding="utf-8").splitlines()
        return [event for event in map(json.loads, lines) if event["event"] == name]

    def report(self) -> SessionReport:
        """The one report on disk."""
        (path,) = (self.data_dir / "sessions").glob("*.json")
        return SessionReport.read(path)


@dataclass(slots=True)
class Director:
    """A ``watch`` that follows a scenario and stops the capture at its end."""

    scenario: Scenario
    handle: CaptureControl
    statuses: list[CaptureStatus]
    _wanted: Callable[[CaptureStatus], bool] | None = None

    def __call__(self, status: CaptureStatus) -> None:
        self.statuses.append(status)
        while self._wanted is None or self._wanted(status):
            self._wanted = next(self.scenario, None)
            if self._wanted is None:
                self.handle.stop("the scenario is through")
                return


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Look up 50 times a second."""
    patch.setattr("stocktrace.live.session.STATUS_INTERVAL_S", 0.02)


@pytest.fixture
def studio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Studio:
    """Captures of this test."""
    hurry(monkeypatch)
    return Studio(tmp_path / "data")


@pytest.fixture(scope="session")
def run_dying() -> Iterator[Run]:
    """Runs programs that kill themselves."""
    with dying() as run:
        yield run


@pytest.fixture(scope="session")
def a_dead_session(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """A session that was killed, made once; tests work on copies (``remains.copy``)."""
    from tests import remains

    return remains.dead(tmp_path_factory.mktemp("dead") / "data")


@pytest.fixture(scope="session")
def a_whole_session(tmp_path_factory: pytest.TempPathFactory) -> Layout:
    """The same, recorded to its end, made once; tests work on copies."""
    from tests import remains

    return remains.whole(tmp_path_factory.mktemp("whole") / "data")


def connected(status: CaptureStatus) -> bool:
    return status.connected


def trades(count: int) -> Callable[[CaptureStatus], bool]:
    """Whether so many trades were received."""
    return lambda status: status.trades >= count


def all_of(exchange: Simulator) -> Callable[[CaptureStatus], bool]:
    """Whether the source was played to its end, and all of it received."""
    return lambda status: exchange.finished.is_set() and status.trades >= exchange.sent_trades


def played(exchange: Simulator) -> Scenario:
    """The scenario of a source that is received whole."""
    yield all_of(exchange)


def brief() -> Scenario:
    """The scenario of a capture that ends as soon as it listens."""
    yield connected


def frame(
    *rows: tuple[str, float], t: int = NOON // 10**6, c: Any = ("1",), v: float = 100
) -> bytes:
    """A frame of trades as Finnhub spells it, of ``(symbol, price)``."""
    data = [{"c": c, "p": price, "s": symbol, "t": t, "v": v} for symbol, price in rows]
    return json.dumps({"data": data, "type": "trade"}, separators=(",", ":")).encode()


def sent(frames: Iterable[bytes]) -> dict[str, list[Row]]:
    """The trades in ``frames`` by ticker, in their order; read by another JSON parser than ours."""
    found: dict[str, list[Row]] = defaultdict(list)
    for each in frames:
        for row in json.loads(each).get("data", []):
            codes = " ".join(row.get("c") or ())
            found[row["s"]].append((row["t"], float(row["p"]), float(row["v"]), codes))
    return dict(found)


def published(data_dir: Path) -> dict[str, list[Row]]:
    """The trades of a dataset by ticker, each in order of file and row."""
    found: dict[str, list[Row]] = defaultdict(list)
    folder = data_dir / "parquet"
    files = sorted(str(path) for path in folder.rglob("*.parquet"))
    if not files:
        return {}
    dataset = ds.dataset(files, partitioning="hive", partition_base_dir=str(folder))
    table = dataset.to_table(use_threads=False)
    rows = zip(
        table["symbol"].to_pylist(),
        table["ts_event"].cast("int64").to_pylist(),
        table["price"].to_pylist(),
        table["volume"].to_pylist(),
        table["conditions"].to_pylist(),
        strict=True,
    )
    for symbol, *row in rows:
        found[symbol].append((row[0], row[1], row[2], row[3]))
    return dict(found)


def taped(data_dir: Path, session: str = "*") -> list[bytes]:
    """The frames on the tapes of a session, or of the only one, in the order of their arrival."""
    (folder,) = (data_dir / "tape").glob(session)
    return [
        one
        for path in Layout(data_dir).session_tapes(folder.name).values()
        for entry in TapeReader(path)
        if isinstance(entry, TapeFrames)
        for one in entry.frames
    ]


def tree(folder: Path) -> list[str]:
    """All files under ``folder``, relative, sorted, but the cache of finished sessions."""
    files = (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in files if not name.endswith("sessions/finished"))
