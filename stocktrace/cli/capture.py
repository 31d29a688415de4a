"""``stocktrace capture``, ``demo`` and ``watch``: a capture and its progress.

The settings are flags, made from the settings themselves: ``--roll-interval 5m``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from pydantic import SecretStr

from stocktrace.cli import output, streams
from stocktrace.cli.dashboard import DashboardFlag, run_dashboard
from stocktrace.cli.parameters import DataDir, Duration, Json, Tickers, Time, open_layout
from stocktrace.cli.progress import ProgressMode, make_progress, until_it_fails
from stocktrace.cli.signals import handle_signals
from stocktrace.end_time import HELP, CaptureSpan
from stocktrace.errors import KeyInUse, SessionCrashed, StocktraceError, UsageError
from stocktrace.live.control import CaptureControl
from stocktrace.settings import TUNING, Settings
from stocktrace.trade import parse_tickers
from stocktrace.units import FOREVER

if TYPE_CHECKING:
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.layout import Layout

#: Stocks, a coin and a currency: every kind of trade that the feed has.
DEMO_TICKERS = ("AAPL", "MSFT", "NVDA", "BRK.B", "BINANCE:BTCUSDT", "OANDA:EUR_USD")
DEMO_KEY = "demo"
DEMO_DATA = Path("data/demo")
DEMO_RATE = 300.0
# A capture writes its status twice a second.
_LOOK_S = 0.5

_SETTINGS = Group.create_ordered(
    "Settings",
    help="Also STOCKTRACE_DATA_DIR etc. in the environment or .env, and data_dir etc. in "
    "stocktrace.toml.",
)
_TUNING = Group.create_ordered("Tuning", help="Settings that rarely need a change.")
_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NAMES = [name for name in Settings.model_fields if name != "finnhub_api_key"]


def _flag(name: str) -> tuple[str, Any, Any]:
    setting = Settings.model_fields[name]
    parameter = Parameter(
        group=_SETTINGS if _NAMES.index(name) < _NAMES.index(TUNING) else _TUNING,
        help=setting.description,
        metavar=next(text for text in setting.metadata if isinstance(text, str)),
        show_default=_default_text(setting.default) or False,
    )
    return name, Annotated[str | None, parameter], dataclasses.field(default=None)


def _default_text(default: object) -> str:
    """Return a default as a user would write it: ``10m``, ``128MB``, ``forever``."""
    if default is None:
        return FOREVER
    if isinstance(default, float):
        fitting = (unit for unit, size in _UNITS_S.items() if default and default % size == 0)
        unit = next(fitting, "s")
        return f"{default / _UNITS_S[unit]:g}{unit}"
    if isinstance(default, int) and default % 1_000_000 == 0:
        return f"{default // 1_000_000}MB"
    return str(default)


if TYPE_CHECKING:

    class Flags:
        """An optional text for each setting, which ``_load_settings`` parses."""

else:
    Flags = dataclasses.make_dataclass("Flags", map(_flag, _NAMES), kw_only=True)
    # For cyclopts, a class of the module "types" is not a dataclass.
    Flags.__module__ = __name__

#: For the parameter of a command that takes all settings.
AllFlags = Annotated[Flags | None, Parameter(name="*")]

For = Annotated[
    Duration | None, Parameter(name="--for", help="How long to run: 30s, 10m or 1h30m.")
]
_Progress = Annotated[
    ProgressMode,
    Parameter(
        name="--progress", help="auto is live in a terminal, and a log line every 30 s elsewhere."
    ),
]


def _load_settings(flags: Flags | None) -> Settings:
    return Settings.load(**vars(flags) if flags is not None else {})


def capture(
    *tickers: Tickers,
    for_: For = None,
    until: Annotated[Time | None, Parameter(help=HELP)] = None,
    show: _Progress = "auto",
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
    names, span = parse_tickers(tickers), CaptureSpan.of(for_, until)
    return _run_capture(names, span, _load_settings(flags), show, dashboard, as_json)


def demo(
    *tickers: Tickers,
    for_: For = "30s",
    show: _Progress = "auto",
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
    given = _load_settings(flags)
    with demo_simulator() as url:
        update = {"url": url, "finnhub_api_key": SecretStr(DEMO_KEY)}
        if "data_dir" not in given.model_fields_set:
            update["data_dir"] = DEMO_DATA  # made-up trades do not mix with real ones
        settings = given.model_copy(update=update)
        status = _run_capture(names, span, settings, show, dashboard, as_json)
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


def _run_capture(
    tickers: tuple[str, ...],
    span: CaptureSpan,
    settings: Settings,
    mode: ProgressMode,
    dashboard: bool,
    as_json: bool,
) -> int:
    """Capture, show progress, print the summary; returns the exit status."""
    settings.key()  # a missing key is reported before a second of imports
    streams.write_in_background()

    from stocktrace.live.api import capture as record

    control = CaptureControl()
    with (
        handle_signals(lambda: control.stop("interrupted")) as caught,
        run_dashboard(settings.data_dir, wanted=dashboard) as log_page,
        make_progress(mode) as show_progress,
    ):

        def show(status: CaptureStatus) -> None:
            log_page(status.session)
            show_progress(status)

        try:
            report = record(
                tickers,
                duration=span.duration,
                until=span.until,
                settings=settings,
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
        output.print_summary(report, settings.data_dir)
    if report.state == "failed":
        output.print_error(report.reason)
    # The log says why an upload failed.
    return 1 if report.state == "failed" or report.upload_error else caught.status


def print_last_trades(ticker: str, data_dir: Path) -> None:
    """Print the last few trades of a ticker, read from the Parquet files."""
    from stocktrace.query.trades import read_trades

    print(f"\nstocktrace.read_trades({ticker!r}, data_dir={str(data_dir)!r}).tail(5)")
    output.print_trades(read_trades(ticker, data_dir=data_dir).tail(5))


def watch(
    session: str | None = None,
    *,
    show: _Progress = "auto",
    as_json: Json = False,
    data_dir: DataDir = None,
) -> int:
    """Show the progress of a capture in another process until it ends.

    With --json, prints each status as a line. Ctrl-C ends `watch`, not the capture. Exits 1 if the
    capture failed or crashed.

    $ stocktrace watch
    $ stocktrace watch 20261123T142958Z_3f9a1c --progress log
    $ stocktrace watch --json --data-dir /srv/trades

    Args:
        session: Defaults to the capture that was started last.
    """
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import find_running_capture
    from stocktrace.sessions.report import SessionReport

    session = session or find_running_capture(layout, latest=True)
    last: CaptureStatus | None = None
    try:
        with make_progress("none" if as_json else show) as show_progress:
            for last in _read_statuses(layout, session):
                show_progress(last)
                if as_json:
                    output.print_json(last)
                    output.flush()
                    output.check_reader()
    except KeyboardInterrupt:
        output.print_error(f"Session {session} is still running.")
        return 130
    if last is None or last.state != "ended":
        raise SessionCrashed(session)
    if not as_json:
        output.print_summary(SessionReport.read(layout.report(session)), layout.root)
    return 1 if last.final_state == "failed" else 0


def _read_statuses(layout: Layout, session: str) -> Iterator[CaptureStatus]:
    """Yield each status of a session that is written, until the session or its process ends."""
    from stocktrace.sessions.catalog import is_in_use
    from stocktrace.sessions.status import CaptureStatus
    from stocktrace.store.names import is_session

    if not is_session(session):
        raise UsageError(f"{session!r} is not a session. See `stocktrace sessions`.")
    path, before, never = layout.status(session), None, threading.Event()
    while True:
        # Asked first: if nobody holds the lock, the status that is read next is the last one.
        running = is_in_use(layout, session)
        try:
            status = CaptureStatus.read(path)
        except FileNotFoundError:
            raise UsageError(
                f"No status of session {session} in {layout.root}. See `stocktrace sessions`."
            ) from None
        except ValueError as error:
            raise StocktraceError(f"{path} is not a status of this version: {error}.") from error
        if status != before:
            yield status
        before = status
        if status.state == "ended" or not running:
            return
        never.wait(_LOOK_S)
