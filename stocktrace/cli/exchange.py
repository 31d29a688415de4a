"""``stocktrace exchange``: the simulated Finnhub by itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from stocktrace.cli.capturing import DEMO_KEY, For
from stocktrace.cli.faults import ChaosFlag, FaultFlags, SecondConnection, faults_of
from stocktrace.cli.replay import recording
from stocktrace.cli.signals import on_signals
from stocktrace.quantities import parse_duration, parse_patience

if TYPE_CHECKING:
    from stocktrace.exchange import Source


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

    played = recording(tape, session, data_dir)
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
        ping_period=parse_patience(ping_every),
        symbol_limit=limit,
        second_connection=second,
        rest=RestSettings() if rest else None,
    )
    lasting = parse_duration(for_) if for_ is not None else None
    stop = threading.Event()
    timer = threading.Timer(lasting, stop.set) if lasting is not None else None
    server = Exchange(source, settings, faults)
    with on_signals(stop.set) as caught, server:
        print(server.url, flush=True)
        if timer is not None:
            timer.daemon = True
            timer.start()
        serve(server, stop)
    return caught.status
