"""``stocktrace simulator``: the simulated Finnhub by itself, with faults (docs/faults.md)."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Group, Parameter

from stocktrace.cli.capture import DEMO_KEY, For
from stocktrace.cli.parameters import Duration, Integer, SessionId
from stocktrace.cli.signals import handle_signals
from stocktrace.errors import StoreError, UsageError
from stocktrace.settings import Settings
from stocktrace.units import parse_duration, parse_patience

if TYPE_CHECKING:
    from stocktrace.simulator import Fault, FrameSource, Simulator

# The same as in `stocktrace.simulator.settings`, which takes half a second to import.
SecondConnection = Literal["kills-old", "kills-both", "refused-429", "both-live"]
Resubscribe = Literal["ignored", "doubled", "counted"]

_RECORDING = Group.create_ordered("Recording", help="Replay one instead of a made-up market.")
_FAULTS = Group.create_ordered("Faults", help="Kinds and options are listed in docs/faults.md.")


def simulator(
    *,
    tape: Annotated[Path | None, Parameter(group=_RECORDING)] = None,
    session: Annotated[SessionId | None, Parameter(group=_RECORDING)] = None,
    data_dir: Annotated[Path | None, Parameter(group=_RECORDING)] = None,
    disconnects: Annotated[Literal["skip", "replay"], Parameter(group=_RECORDING)] = "skip",
    speed: Annotated[float, Parameter(group=_RECORDING, metavar="FACTOR")] = 1.0,
    timestamps: Annotated[Literal["recorded", "now"], Parameter(group=_RECORDING)] = "recorded",
    rate: Annotated[float, Parameter(metavar="N")] = 300.0,
    seed: Integer = 1,
    port: Annotated[int, Parameter(metavar="PORT")] = 0,
    key: Annotated[str, Parameter(metavar="KEY")] = DEMO_KEY,
    ping_interval: Duration = "60s",
    symbol_limit: Integer = 50,
    second_connection: SecondConnection = "kills-old",
    resubscribe: Resubscribe = "ignored",
    rest: bool = False,
    tls: bool = False,
    fault: Annotated[list[str] | None, Parameter(group=_FAULTS, metavar="KIND[,OPTION...]")] = None,
    chaos: Annotated[int | None, Parameter(group=_FAULTS, metavar="SEED")] = None,
    for_: For = None,
) -> int:
    """Run a simulated Finnhub server on 127.0.0.1 until Ctrl-C.

    Prints its address. Set STOCKTRACE_URL to it to connect a client. With --tls it prints a second
    line, SSL_CERT_FILE=PATH. Set this variable, too, so that a client trusts its certificate.

    $ stocktrace simulator --port 8765 --rate 1000
    $ stocktrace simulator --tape data/tape/20261123T142958Z_3f9a1c --speed 0
    $ stocktrace simulator --fault drop,after=1000trades,repeat

    Args:
        tape: A .tape, .gz or .zst file, or a folder.
        session: An ended session of a data folder.
        data_dir: The data folder of --session (also STOCKTRACE_DATA_DIR).
        disconnects: Whether to drop clients where the recording did.
        speed: 1 is the recorded pace; 0 is as fast as the client reads.
        timestamps: Keep trade times, or move them to the present.
        rate: Trades per second of the made-up market, over all tickers.
        seed: The same number makes up the same market.
        port: 0 picks any free port.
        key: The API key that clients must use.
        ping_interval: Time between two pings to a client; 0 is never.
        symbol_limit: Maximum tickers per connection; 0 is unlimited.
        second_connection: What happens when a client connects with a key in use.
        resubscribe: What a ticker that is subscribed again means: nothing, trades sent twice, or
            another ticker towards the limit.
        rest: Keep what was sent, and serve it as ticks of the REST API.
        tls: Use TLS, with a certificate that is made at the start.
        fault: Such as drop or mute,after=1000trades,for=1m,repeat. Can be repeated.
        chaos: Random faults, the same for each seed.
    """
    faults = _parse_faults(fault, chaos, tls=tls)

    from stocktrace.simulator import (
        Authority,
        RestSettings,
        Simulator,
        SimulatorSettings,
        SyntheticMarket,
        TapeSource,
        run_simulator,
    )

    source: FrameSource = SyntheticMarket(seed=seed, rate=rate)
    if (recording := find_recording(tape, session, data_dir)) is not None:
        source = TapeSource(
            recording,
            speed=speed,
            times=timestamps,
            replay_disconnects=disconnects == "replay",
            errors=session is None,
        )
    settings = SimulatorSettings(
        key=key,
        port=port,
        ping_period=parse_patience(ping_interval),
        symbol_limit=symbol_limit,
        second_connection=second_connection,
        resubscribe=resubscribe,
        rest=RestSettings() if rest else None,
        tls=Authority() if tls else None,
    )
    stop = threading.Event()
    timer = None if for_ is None else threading.Timer(parse_duration(for_), stop.set)
    server = Simulator(source, settings, faults)
    with handle_signals(stop.set) as caught, server, _announce(server):
        if timer is not None:
            timer.daemon = True
            timer.start()
        run_simulator(server, stop)
    return caught.status


@contextmanager
def _announce(server: Simulator) -> Iterator[None]:
    """Print the address, and with TLS the file with the authority, which is deleted at the end."""
    if (authority := server.settings.tls) is None:
        print(server.url, flush=True)
        yield
        return
    with tempfile.NamedTemporaryFile(prefix="stocktrace-simulator-", suffix=".pem") as file:
        authority.write(Path(file.name))
        print(f"{server.url}\nSSL_CERT_FILE={file.name}", flush=True)
        yield


def _parse_faults(texts: Sequence[str] | None, seed: int | None, *, tls: bool) -> list[Fault]:
    if not texts and seed is None:
        return []

    from stocktrace.simulator.faults import parse_fault, random_faults

    random = random_faults(seed, tls=tls) if seed is not None else ()
    return [*map(parse_fault, texts or ()), *random]


def find_recording(
    tape: Path | None, session: str | None, data_dir: Path | None
) -> Path | Sequence[Path] | None:
    """Return the tapes to replay, or ``None`` for a made-up market.

    Raises:
        UsageError: both flags are given, or the session does not exist.
        StoreError: the session is running, or some of its tapes were deleted.
    """
    if session is None:
        if data_dir is not None:
            raise UsageError("--data-dir needs a --session. See `stocktrace sessions`.")
        return tape
    if tape is not None:
        raise UsageError("Use --tape or --session, not both.")

    from stocktrace.sessions.catalog import is_in_use, read_report
    from stocktrace.store.layout import Layout
    from stocktrace.store.names import is_session

    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    if not is_session(session) or not layout.has(session):
        raise UsageError(f"No session {session} in {layout.root}. See `stocktrace sessions`.")
    if is_in_use(layout, session):
        raise StoreError(f"Session {session} is running. Replay it when it has ended.")
    tapes = {part.window: path for part, path in layout.session_tapes(session).items()}
    report = read_report(layout, session)
    deleted = [] if report is None else sorted(report.windows.keys() - tapes.keys())
    if deleted or not tapes:
        raise StoreError(
            f"Some tapes of session {session} were deleted. To replay those that are left, if any, "
            f"use --tape {layout.tapes(session)}."
        )
    return list(tapes.values())
