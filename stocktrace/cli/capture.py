"""``stocktrace capture`` and ``demo``: a capture from the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output, streams
from stocktrace.cli.dashboard_process import DashboardFlag, run_dashboard
from stocktrace.cli.flags import AllFlags, load
from stocktrace.cli.output import Json
from stocktrace.cli.progress import ProgressMode, make_progress, unfailing
from stocktrace.cli.signals import handle_signals
from stocktrace.end_time import HELP, CaptureSpan
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    from stocktrace.sessions.report import SessionReport
    from stocktrace.sessions.status import CaptureStatus

#: Stocks, a coin and a currency: each kind of trade that the feed has.
DEMO_TICKERS = ("AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD")
DEMO_KEY = "demo"
DEMO_DATA = Path("data/demo")
DEMO_RATE = 300.0

For = Annotated[str | None, Parameter(name="--for", help="How long: 30s, 10m, 1h30m.")]
Until = Annotated[str | None, Parameter(help=HELP)]
Progress = Annotated[
    ProgressMode,
    Parameter(name="--progress", help="On a terminal live, elsewhere a line now and then."),
]


def capture(
    *tickers: str,
    for_: For = None,
    until: Until = None,
    show: Progress = "auto",
    dashboard: DashboardFlag = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record the trades of TICKERS for a bounded time.

    The key is read from FINNHUB_API_KEY, in the environment or in a .env file. Ctrl-C ends in
    order and publishes; a second one leaves at once, and loses nothing that is on the tape.
    """
    job = CaptureJob(parse_tickers(tickers), CaptureSpan.of(for_, until), load(flags), dashboard)
    return job.run(show, as_json=as_json)


def demo(
    *tickers: str,
    for_: For = "30s",
    show: Progress = "auto",
    dashboard: DashboardFlag = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record a simulated exchange: no key, no network. TICKERS may be any.

    What it makes up goes to data/demo, unless a data folder is named. Prints where the files are,
    the books, and a few trades read back.
    """
    names = parse_tickers(tickers or DEMO_TICKERS)
    span = CaptureSpan.of(for_, None)
    given = load(flags)
    with demo_simulator() as url:
        update = {"url": url, **_demo_key()}
        if "data_dir" not in given.model_fields_set:
            update["data_dir"] = DEMO_DATA  # never among what was recorded for real
        settings = given.model_copy(update=update)
        job = CaptureJob(names, span, settings, dashboard)
        status = job.run(show, as_json=as_json)
    if status == 0 and not as_json:
        read_back(names[0], settings.data_dir)
    return status


@contextlib.contextmanager
def demo_simulator() -> Iterator[str]:
    """A simulated exchange in this process; gives its address."""
    from stocktrace.simulator import Simulator, SimulatorSettings, SyntheticMarket

    market = SyntheticMarket(seed=1, rate=DEMO_RATE)
    with Simulator(market, SimulatorSettings(key=DEMO_KEY, symbol_limit=0)) as server:
        yield server.url


def _demo_key() -> dict[str, object]:
    from pydantic import SecretStr

    return {"finnhub_api_key": SecretStr(DEMO_KEY)}


@dataclass(frozen=True, slots=True)
class CaptureJob:
    """One capture from the command line."""

    tickers: tuple[str, ...]
    span: CaptureSpan
    settings: Settings
    dashboard: bool = False

    def run(self, mode: ProgressMode, *, as_json: bool) -> int:
        """Capture, show it, print what it came to; gives the exit status."""
        self.settings.key()  # a missing one is told before a second of imports
        streams.write_in_background()

        from stocktrace.live.api import capture as run_capture
        from stocktrace.live.control import CaptureControl

        handle = CaptureControl()
        with (
            handle_signals(lambda: handle.stop("interrupted")) as caught,
            run_dashboard(self.settings.data_dir, wanted=self.dashboard) as tell,
            make_progress(mode) as show,
        ):

            def look(status: CaptureStatus) -> None:
                tell(status)
                if show is not None:
                    show(status)

            try:
                report = run_capture(
                    self.tickers,
                    duration=self.span.duration,
                    until=self.span.until,
                    settings=self.settings,
                    on_status=unfailing(look),
                    control=handle,
                )
            except KeyInUse:
                if caught.status:  # interrupted while it waited for the key: nothing has begun
                    return caught.status
                raise
        _print(report, self.settings.data_dir, as_json=as_json)
        if report.state == "failed":
            output.print_error(report.reason)
            return 1
        if report.upload_error:
            return 1  # the log has told why
        return caught.status


def _print(report: SessionReport, data_dir: Path, *, as_json: bool) -> None:
    if as_json:
        output.print_json(report)
    else:
        output.print_summary(report, data_dir)


def read_back(ticker: str, data_dir: Path) -> None:
    """Print the last few trades of a ticker, read from the Parquet files."""
    from stocktrace.query.trades import read_trades

    print(f"\nstocktrace.read_trades({ticker!r}, data_dir={str(data_dir)!r}).tail(5)")
    output.print_trades(read_trades(ticker, data_dir=data_dir).tail(5))
