"""``stocktrace simulator``: the simulated Finnhub by itself."""
# MERGED """The flags of ``stocktrace simulator`` that make it misbehave (docs/faults.md)."""
# MERGED """What ``stocktrace simulator`` is to play: a tape, or all tapes of a session."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stocktrace.cli.capture import DEMO_KEY, For
from stocktrace.cli.signals import handle_signals
from stocktrace.errors import StoreError, UsageError
from stocktrace.settings import Settings
from stocktrace.units import parse_duration, parse_patience

if TYPE_CHECKING:
    from stocktrace.simulator import FrameSource


def simulator(
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
    timestamps: Annotated[
        Literal["recorded", "now"], Parameter(help="Trade times as recorded, or moved to now.")
    ] = "recorded",
    rate: Annotated[
        float, Parameter(help="Without a recording: trades a second, over all tickers.")
    ] = 300.0,
    seed: Annotated[int, Parameter(help="Without a recording: which market.")] = 1,
    port: Annotated[int, Parameter(help="0: any free port.")] = 0,
    key: Annotated[str, Parameter(help="What a client must send as its token.")] = DEMO_KEY,
    ping_interval: Annotated[str, Parameter(help="Heartbeat; 0: none.")] = "60s",
    symbol_limit: Annotated[int, Parameter(help="Most tickers a connection; 0: no limit.")] = 50,
    second_connection: Annotated[
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

    from stocktrace.simulator import (
        RestSettings,
        Simulator,
        SimulatorSettings,
        SyntheticMarket,
        TapeSource,
        run_simulator,
    )

    played = find_recording(tape, session, data_dir)
    source: FrameSource = (
        SyntheticMarket(seed=seed, rate=rate)
        if played is None
        else TapeSource(
            played,
            speed=speed,
            times=timestamps,
            replay_disconnects=disconnects == "replay",
            errors=session is None,
        )
    )
    settings = SimulatorSettings(
        key=key,
        port=port,
        ping_period=parse_patience(ping_interval),
        symbol_limit=symbol_limit,
        second_connection=second_connection,
        rest=RestSettings() if rest else None,
    )
    lasting = parse_duration(for_) if for_ is not None else None
    stop = threading.Event()
    timer = threading.Timer(lasting, stop.set) if lasting is not None else None
    server = Simulator(source, settings, faults)
    with handle_signals(stop.set) as caught, server:
        print(server.url, flush=True)
        if timer is not None:
            timer.daemon = True
            timer.start()
        run_simulator(server, stop)
    return caught.status


if TYPE_CHECKING:
    from stocktrace.simulator import Fault

#: As ``stocktrace.simulator.settings`` has it, which takes half a second to load.
SecondConnection = Literal["kills-old", "kills-both", "refused-429", "both-live"]

FaultFlags = Annotated[
    list[str] | None,
    Parameter(
        name="--fault",
        negative="",
        help="KIND[,OPTION...], such as drop or mute,after=1000trades,for=1m,repeat; may be given "
        "again. The kinds and their options are in docs/faults.md.",
    ),
]
ChaosFlag = Annotated[
    int | None, Parameter(name="--chaos", help="Faults at random; the same for the same number.")
]


def faults_of(texts: Sequence[str] | None, seed: int | None) -> list[Fault]:
    """The faults that the flags ask for.

    Raises:
        UsageError: one of them is none.
    """
    if not texts and seed is None:
        return []

    from stocktrace.simulator.chaos import random_faults
    from stocktrace.simulator.fault_syntax import parse_fault

    faults = [parse_fault(text) for text in texts or ()]
    return faults if seed is None else [*faults, *random_faults(seed)]


def find_recording(
    tape: Path | None, session: str | None, data_dir: Path | None
) -> Path | Sequence[Path] | None:
    """The tapes to play; ``None``: none was named.

    Raises:
        UsageError: two were named, or there is no such session.
        StoreError: the session is alive, or has not all its tapes any more.
    """
    if session is None:
        if data_dir is not None:
            raise UsageError("--data-dir is of a --session: name one, see `stocktrace sessions`.")
        return tape
    if tape is not None:
        raise UsageError("Name a --tape or a --session, not both.")

    from stocktrace.sessions.catalog import is_in_use, read_report
    from stocktrace.store.layout import Layout
    from stocktrace.store.names import is_session

    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    if not is_session(session) or not layout.has(session):
        raise UsageError(
            f"There is no session {session} in {layout.root}: see `stocktrace sessions`."
        )
    if is_in_use(layout, session):
        raise StoreError(f"Session {session} is alive: play it when it has ended.")
    tapes = {part.window: path for part, path in layout.session_tapes(session).items()}
    report = read_report(layout, session)
    gone = [] if report is None else sorted(report.windows.keys() - tapes.keys())
    if gone or not tapes:
        raise StoreError(
            f"Session {session} has not all its tapes any more: give those that are left in "
            f"{layout.tapes(session)}, if any, with --tape."
        )
    return list(tapes.values())
