"""``stocktrace capture`` and ``demo``: a capture from the command line."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output, streams
from stocktrace.cli.dashboard import DashboardFlag, run_dashboard
from stocktrace.cli.flags import AllFlags, load_settings
from stocktrace.cli.help import Duration, Json, Tickers, Time
from stocktrace.cli.progress import ProgressMode, make_progress, until_it_fails
from stocktrace.cli.signals import handle_signals
from stocktrace.end_time import HELP, CaptureSpan
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from stocktrace.trade import parse_tickers

if TYPE_CHECKING:
    from stocktrace.sessions.status import CaptureStatus

#: Stocks, a coin and a currency: every kind of trade that the feed has.
DEMO_TICKERS = ("AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD")
DEMO_KEY = "demo"
DEMO_DATA = Path("data/demo")
DEMO_RATE = 300.0

For = Annotated[
    Duration | None, Parameter(name="--for", help="How long to run: 30s, 10m or 1h30m.")
]
Progress = Annotated[
    ProgressMode,
    Parameter(
        name="--progress", help="auto is live in a terminal, and a log line every 30 s elsewhere."
    ),
]


def capture(
    *tickers: Tickers,
    for_: For = None,
    until: Annotated[Time | None, Parameter(help=HELP)] = None,
    show: Progress = "auto",
    dashboard: DashboardFlag = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record the trades of TICKERS until an end time.

    Reads the API key from FINNHUB_API_KEY, in the environment or in a .env file. Ctrl-C stops
    cleanly and publishes. Press it again to exit at once; nothing on the tape is lost.

    $ stocktrace capture AAPL MSFT --for 30m
    $ stocktrace capture AAPL MSFT --until close --dashboard
    $ stocktrace capture BINANCE:BTCUSDT --for 1d --data-dir /srv/trades
    """
    job = CaptureJob(
        parse_tickers(tickers), CaptureSpan.of(for_, until), load_settings(flags), dashboard
    )
    return job.run(show, as_json=as_json)


def demo(
    *tickers: Tickers,
    for_: For = "30s",
    show: Progress = "auto",
    dashboard: DashboardFlag = False,
    as_json: Json = False,
    flags: AllFlags = None,
) -> int:
    """Record made-up trades from a simulator, without a key or a network.

    TICKERS can be any; without them, there are six. The data is written to data/demo, unless
    --data-dir names another folder. Prints the summary of the session and a few trades read back.

    $ stocktrace demo
    $ stocktrace demo AAPL MSFT --for 5m --dashboard
    """
    names = parse_tickers(tickers or DEMO_TICKERS)
    span = CaptureSpan.of(for_, None)
    given = load_settings(flags)
    with demo_simulator() as url:
        update = {"url": url, **_demo_key()}
        if "data_dir" not in given.model_fields_set:
            update["data_dir"] = DEMO_DATA  # made-up trades do not mix with real ones
        settings = given.model_copy(update=update)
        job = CaptureJob(names, span, settings, dashboard)
        status = job.run(show, as_json=as_json)
    if status == 0 and not as_json:
        print_last_trades(names[0], settings.data_dir)
    return status


@contextlib.contextmanager
def demo_simulator() -> Iterator[str]:
    """Run a simulator in this process; yields its address."""
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
        """Capture, show progress, print the summary; returns the exit status."""
        self.settings.key()  # a missing key is reported before a second of imports
        streams.write_in_background()

        from stocktrace.live.api import capture as run_capture
        from stocktrace.live.control import CaptureControl

        control = CaptureControl()
        with (
            handle_signals(lambda: control.stop("interrupted")) as caught,
            run_dashboard(self.settings.data_dir, wanted=self.dashboard) as log_page,
            make_progress(mode) as show_progress,
        ):

            def show(status: CaptureStatus) -> None:
                log_page(status)
                if show_progress is not None:
                    show_progress(status)

            try:
                report = run_capture(
                    self.tickers,
                    duration=self.span.duration,
                    until=self.span.until,
                    settings=self.settings,
                    on_status=until_it_fails(show),
                    control=control,
                )
            except KeyInUse:
                if caught.status:  # interrupted while it waited for the key: nothing was started
                    return caught.status
                raise
        if as_json:
            output.print_json(report)
        else:
            output.print_summary(report, self.settings.data_dir)
        if report.state == "failed":
            output.print_error(report.reason)
            return 1
        if report.upload_error:
            return 1  # the log says why
        return caught.status


def print_last_trades(ticker: str, data_dir: Path) -> None:
    """Print the last few trades of a ticker, read from the Parquet files."""
    from stocktrace.query.trades import read_trades

    print(f"\nstocktrace.read_trades({ticker!r}, data_dir={str(data_dir)!r}).tail(5)")
    output.print_trades(read_trades(ticker, data_dir=data_dir).tail(5))
