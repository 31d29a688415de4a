"""``stocktrace capture``, ``demo`` and ``exchange``: what runs for a while and can be stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stocktrace.cli import output, replay
from stocktrace.cli.beside import Dashboard, beside
from stocktrace.cli.faults import ChaosFlag, FaultFlags, SecondConnection, faults_of
from stocktrace.cli.flags import AllFlags, load
from stocktrace.cli.progress import Mode, progress
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings, parse_duration
from stocktrace.trade import parse_tickers
from stocktrace.until import HELP, Span

if TYPE_CHECKING:
    from stocktrace.exchange import Source
    from stocktrace.report import Report
    from stocktrace.status import Status

#: Stocks, a coin and a currency: each kind of trade that the feed has.
DEMO_TICKERS = ("AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD")
DEMO_KEY = "demo"
DEMO_DATA = Path("data/demo")
DEMO_RATE = 300.0

For = Annotated[str | None, Parameter(name="--for", help="How long: 30s, 10m, 1h30m.")]
Until = Annotated[str | None, Parameter(help=HELP)]
Progress = Annotated[
    Mode, Parameter(name="--progress", help="On a terminal live, elsewhere a line now and then.")
]
Json = Annotated[
    bool, Parameter(name="--json", negative="", help="Print JSON, for programs to read.")
]


def capture(
    *tickers: str,
    for_: For = None,
    until: Until = None,
    show: Progress = "auto",
    dashboard: Dashboard = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record the trades of TICKERS for a bounded time.

    The key is read from FINNHUB_API_KEY, in the environment or in a .env file. Ctrl-C ends in
    order and publishes; a second one leaves at once, and loses nothing that is on the tape.
    """
    job = Job(parse_tickers(tickers), Span.of(for_, until), load(flags), dashboard)
    return job.run(show, as_json=as_json)


def demo(
    *tickers: str,
    for_: For = "30s",
    show: Progress = "auto",
    dashboard: Dashboard = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record a simulated exchange: no key, no network. TICKERS may be any.

    What it makes up goes to data/demo, unless a data folder is named. Prints where the files are,
    the books, and a few trades read back.
    """
    names = parse_tickers(tickers or DEMO_TICKERS)
    span = Span.of(for_, None)
    given = load(flags)
    with demo_exchange() as url:
        update = {"url": url, **_demo_key()}
        if "data_dir" not in given.model_fields_set:
            update["data_dir"] = DEMO_DATA  # never among what was recorded for real
        settings = given.model_copy(update=update)
        job = Job(names, span, settings, dashboard)
        status = job.run(show, as_json=as_json)
    if status == 0 and not as_json:
        read_back(names[0], settings.data_dir)
    return status


def exchange(
    *,
    tape: Annotated[
        Path | None, Parameter(help="A recording: .tape, .gz, .zst, or a folder.")
    ] = None,
    session: Annotated[
        str | None, Parameter(help="Instead: what a session of the data folder received.")
    ] = None,
    data_dir: Annotated[
        Path | None, Parameter(help="The session's data folder; also STOCKTRACE_DATA_DIR.")
    ] = None,
    disconnects: Annotated[
        Literal["skip", "replay"], Parameter(help="Of a recording: whether it drops clients, too.")
    ] = "skip",
    speed: Annotated[
        float, Parameter(help="Times recorded pace; 0: as fast as it is taken.")
    ] = 1.0,
    times: Annotated[
        Literal["recorded", "now"], Parameter(help="Trade times as recorded, or moved to now.")
    ] = "recorded",
    rate: Annotated[
        float, Parameter(help="Without a recording: trades a second, over all tickers.")
    ] = 300.0,
    seed: Annotated[int, Parameter(help="Without a recording: which market.")] = 1,
    port: Annotated[int, Parameter(help="0: any free port.")] = 0,
    key: Annotated[str, Parameter(help="What a client must send as its token.")] = DEMO_KEY,
    ping_every: Annotated[str, Parameter(help="Heartbeat; 0: none.")] = "60s",
    limit: Annotated[int, Parameter(help="Most tickers a connection; 0: no limit.")] = 50,
    second: Annotated[
        SecondConnection, Parameter(help="What a second connection with the key brings.")
    ] = "kills-old",
    rest: Annotated[
        bool, Parameter(negative="", help="Give what was played as ticks on REST; it is kept.")
    ] = False,
    fault: FaultFlags = None,
    chaos: ChaosFlag = None,
    for_: For = None,
) -> int:
    """Run the simulated Finnhub by itself, on 127.0.0.1, until Ctrl-C.

    Prints its address; point a client at it: STOCKTRACE_URL=ws://127.0.0.1:PORT.
    """
    faults = faults_of(fault, chaos)

    from stocktrace.exchange import (
        Exchange,
        ExchangeSettings,
        RestSettings,
        SyntheticMarket,
        Tape,
        serve,
    )

    played = replay.recording(tape, session, data_dir)
    source: Source = (
        SyntheticMarket(seed=seed, rate=rate)
        if played is None
        else Tape(
            played,
            speed=speed,
            times=times,
            replay_disconnects=disconnects == "replay",
            errors=session is None,
        )
    )
    settings = ExchangeSettings(
        key=key,
        port=port,
        ping_period=0.0 if ping_every == "0" else parse_duration(ping_every),
        symbol_limit=limit or None,
        second_connection=second,
        rest=RestSettings() if rest else None,
    )
    lasting = parse_duration(for_) if for_ is not None else None
    stop = threading.Event()
    timer = threading.Timer(lasting, stop.set) if lasting is not None else None
    server = Exchange(source, settings, faults)
    with _on_signals(stop.set) as caught, server:
        print(server.url, flush=True)
        if timer is not None:
            timer.daemon = True
            timer.start()
        serve(server, stop)
    return caught.status


@contextlib.contextmanager
def demo_exchange() -> Iterator[str]:
    """A simulated exchange in this process; gives its address."""
    from stocktrace.exchange import Exchange, ExchangeSettings, SyntheticMarket

    market = SyntheticMarket(seed=1, rate=DEMO_RATE)
    with Exchange(market, ExchangeSettings(key=DEMO_KEY, symbol_limit=0)) as server:
        yield server.url


def _demo_key() -> dict[str, object]:
    from pydantic import SecretStr

    return {"finnhub_api_key": SecretStr(DEMO_KEY)}


@dataclass(frozen=True, slots=True)
class Job:
    """One capture from the command line."""

    tickers: tuple[str, ...]
    span: Span
    settings: Settings
    dashboard: bool = False

    def run(self, mode: Mode, *, as_json: bool) -> int:
        """Capture, show it, print what it came to; gives the exit status."""
        self.settings.key()  # a missing one is told before a second of imports

        from stocktrace.live.capturing import capture as run_capture
        from stocktrace.live.run import Handle

        handle = Handle()
        with (
            _on_signals(lambda: handle.stop("interrupted")) as caught,
            beside(self.settings.data_dir, wanted=self.dashboard) as tell,
            progress(mode) as show,
        ):

            def look(status: Status) -> None:
                tell(status)
                if show is not None:
                    show(status)

            try:
                report = run_capture(
                    self.tickers,
                    lasting=self.span.lasting,
                    until=self.span.until,
                    settings=self.settings,
                    watch=look,
                    handle=handle,
                )
            except KeyInUse:
                if caught.status:  # interrupted while it waited for the key: nothing has begun
                    return caught.status
                raise
        _print(report, self.settings.data_dir, as_json=as_json)
        if report.state == "failed":
            output.complain(report.reason)
            return 1
        if report.unsent:
            return 1  # the log has told why
        return caught.status


def _print(report: Report, data_dir: Path, *, as_json: bool) -> None:
    if as_json:
        output.json(report)
    else:
        output.summary(report, data_dir)


def read_back(ticker: str, data_dir: Path) -> None:
    """Print the last few trades of a ticker, read from the Parquet files."""
    from stocktrace.store.dataset import read_trades

    print(f"\nstocktrace.read_trades({ticker!r}, data_dir={str(data_dir)!r}).tail(5)")
    output.trades(read_trades(ticker, data_dir=data_dir).tail(5))


@dataclass(slots=True)
class Caught:
    """The exit status that a signal asks for: 128 + its number, as shells have it."""

    status: int = 0


@contextlib.contextmanager
def _on_signals(stop: Callable[[], None]) -> Iterator[Caught]:
    """SIGINT and SIGTERM call ``stop`` the first time; the second time the process leaves."""
    caught = Caught()

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if caught.status:
            os._exit(128 + number)
        caught.status = 128 + number
        stop()

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in numbers]
    try:
        yield caught
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
