"""``stocktrace tickers``: the tickers of a running capture, listed and changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import msgspec
from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.parameters import DataDir, Duration, Json, SessionId, Tickers, open_layout
from stocktrace.live.control import ChangeAction, ChangeRequest
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import parse_duration

SessionFlag = Annotated[
    SessionId | None, Parameter(name="--session", help="Needed if several captures are running.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeFlags:
    """The options of a command that changes a running capture."""

    session: SessionFlag = None
    wait: Annotated[
        Duration, Parameter(help="Exit 1 if the capture does not answer within this time.")
    ] = "15s"
    data_dir: DataDir = None
    as_json: Json = False


AllChangeFlags = Annotated[ChangeFlags | None, Parameter(name="*")]


def add(*tickers: Tickers, flags: AllChangeFlags = None) -> int:
    """Add TICKERS to a running capture.

    Exits 0 if they are subscribed, or will be when the connection is back. Exits 1 if the server
    refuses one, or if the capture does not answer.

    $ stocktrace tickers add NVDA
    $ stocktrace tickers add NVDA AMD --session 20261123T142958Z_3f9a1c
    """
    return _change("add", tickers, flags or ChangeFlags())


def remove(*tickers: Tickers, flags: AllChangeFlags = None) -> int:
    """Remove TICKERS from a running capture. Their recorded trades are kept.

    $ stocktrace tickers remove NVDA
    $ stocktrace tickers remove NVDA AMD --wait 1m
    """
    return _change("remove", tickers, flags or ChangeFlags())


def set_(*tickers: Tickers, flags: AllChangeFlags = None) -> int:
    """Let a running capture record TICKERS, and no others.

    $ stocktrace tickers set AAPL MSFT
    $ stocktrace tickers set AAPL MSFT --json
    """
    return _change("set", tickers, flags or ChangeFlags())


def list_(*, session: SessionFlag = None, data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the tickers of a running capture, when they were added, and by whom.

    $ stocktrace tickers list
    $ stocktrace tickers list --json --data-dir /srv/trades
    """
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import find_running_capture
    from stocktrace.sessions.report import SessionReport

    report = SessionReport.read(layout.report(find_running_capture(layout, session)))
    if as_json:
        names = ("session", "tickers", "changes", "refused")
        output.print_json({name: getattr(report, name) for name in names})
        return 0
    added = dict.fromkeys(report.tickers, (report.started, ""))
    added |= {name: (change.at, change.by) for change in report.changes for name in change.added}
    output.print_table(
        ["ticker", "since", "by", "refused"],
        [
            (name, f"{added[name][0]:%Y-%m-%d %H:%M:%S}", added[name][1], report.refused.get(name))
            for name in report.tickers
        ],
    )
    return 0


def _change(action: ChangeAction, tickers: Sequence[str], flags: ChangeFlags) -> int:
    names, patience = parse_tickers(tickers), parse_duration(flags.wait)
    layout = open_layout(flags.data_dir)

    from stocktrace.live.ticker_changes import request_change
    from stocktrace.sessions.catalog import find_running_capture

    running = find_running_capture(layout, flags.session)
    outcome = request_change(layout, running, ChangeRequest(action, names, "cli"), patience)
    if flags.as_json:
        output.print_json({"session": running, **msgspec.to_builtins(outcome)})
    elif not outcome.error:
        changed = [
            *(f"+{name}" for name in outcome.added),
            *(f"-{name}" for name in outcome.removed),
        ]
        captured = count_of(len(outcome.captured), "ticker")
        print(f"session {running}: {' '.join(changed) or 'nothing to change'}; {captured}")
        if outcome.added and not outcome.connected:
            print("  not connected now: they will be subscribed when the connection is back")
        absent = sorted(set(names) - set(outcome.removed))
        if action == "remove" and absent:
            print(f"  not captured before: {' '.join(absent)}")
    sentences = [f"The server refused {name}: {text}" for name, text in outcome.refused.items()]
    if outcome.unanswered:
        sentences.append(f"The server says: {outcome.unanswered}. See `stocktrace tickers list`.")
    if outcome.error:
        sentences.append(outcome.error)
    output.print_error(*sentences)
    return 1 if sentences else 0
