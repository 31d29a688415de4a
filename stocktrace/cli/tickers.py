"""``stocktrace tickers``: the tickers of a running capture, listed and changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.help import Duration, Json, SessionId, Tickers, add_command, make_app
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import parse_duration

if TYPE_CHECKING:
    from stocktrace.live.control import ChangeAction, ChangeRequest
    from stocktrace.live.ticker_changes import ChangeOutcome

SessionFlag = Annotated[
    SessionId | None,
    Parameter(name="--session", help="Needed if several captures are running."),
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
    changes = {ticker: change for change in report.changes for ticker in change.added}
    output.print_table(
        ["ticker", "since", "by", "refused"],
        [
            (
                ticker,
                f"{changes[ticker].at if ticker in changes else report.started:%Y-%m-%d %H:%M:%S}",
                changes[ticker].by if ticker in changes else "",
                report.refused.get(ticker, ""),
            )
            for ticker in report.tickers
        ],
    )
    return 0


app = make_app(
    "tickers",
    "List or change the tickers of a running capture.\n\nFor example:\n\n"
    "    stocktrace tickers list\n    stocktrace tickers add NVDA",
    "stocktrace",
    version_flags=[],
)
add_command(app, list_, sort_key=0)
add_command(app, add, "TICKERS...", sort_key=1)
add_command(app, remove, "TICKERS...", sort_key=2)
add_command(app, set_, "TICKERS...", sort_key=3)


def _change(action: ChangeAction, tickers: Sequence[str], flags: ChangeFlags) -> int:
    names, patience = parse_tickers(tickers), parse_duration(flags.wait)
    layout = open_layout(flags.data_dir)

    from stocktrace.live.control import ChangeRequest
    from stocktrace.live.ticker_changes import request_change
    from stocktrace.sessions.catalog import find_running_capture

    running = find_running_capture(layout, flags.session)
    request = ChangeRequest(action, names, "cli")
    outcome = request_change(layout, running, request, patience)
    if flags.as_json:
        output.print_json({"session": running, **msgspec.to_builtins(outcome)})
    elif not outcome.error:
        _print(running, request, outcome)
    sentences = [f"The server refused {ticker}: {text}" for ticker, text in outcome.refused.items()]
    if outcome.unanswered:
        sentences.append(f"The server says: {outcome.unanswered}. See `stocktrace tickers list`.")
    if outcome.error:
        sentences.append(outcome.error)
    for sentence in sentences:
        output.print_error(sentence)
    return 1 if sentences else 0


def _print(session: str, request: ChangeRequest, outcome: ChangeOutcome) -> None:
    changed = [*(f"+{t}" for t in outcome.added), *(f"-{t}" for t in outcome.removed)]
    print(
        f"session {session}: {' '.join(changed) or 'nothing to change'}; "
        f"{count_of(len(outcome.captured), 'ticker')}"
    )
    if outcome.added and not outcome.connected:
        print("  not connected now: they will be subscribed when the connection is back")
    if request.action == "remove" and (
        absent := sorted(set(request.tickers) - set(outcome.removed))
    ):
        print(f"  not captured before: {' '.join(absent)}")
