"""``stocktrace tickers``: the tickers of a running capture, listed and changed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.help import Json, Tickers, add_command, make_app
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import parse_duration

if TYPE_CHECKING:
    from stocktrace.live.control import ChangeAction, ChangeRequest
    from stocktrace.live.ticker_requests import ChangeOutcome

SessionName = Annotated[
    str | None,
    Parameter(name="--session", metavar="SESSION", help="Needed if several captures are running."),
]
Wait = Annotated[
    str,
    Parameter(metavar="DURATION", help="Exit 1 if the capture does not answer within this time."),
]


def add(
    *tickers: Tickers,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Add TICKERS to a running capture.

    Exits 0 if they are subscribed, or will be when the connection is back. Exits 1 if the server
    refuses one, or if the capture does not answer.

    For example:

        stocktrace tickers add NVDA
        stocktrace tickers add NVDA AMD --session 20261123T142958Z_3f9a1c
    """
    return _change("add", tickers, session, wait, data_dir, as_json=as_json)


def remove(
    *tickers: Tickers,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Remove TICKERS from a running capture. Their recorded trades are kept.

    For example:

        stocktrace tickers remove NVDA
        stocktrace tickers remove NVDA AMD --wait 1m
    """
    return _change("remove", tickers, session, wait, data_dir, as_json=as_json)


def set_(
    *tickers: Tickers,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Let a running capture record TICKERS, and no others.

    For example:

        stocktrace tickers set AAPL MSFT
        stocktrace tickers set AAPL MSFT --json
    """
    return _change("set", tickers, session, wait, data_dir, as_json=as_json)


def list_(*, session: SessionName = None, data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the tickers of a running capture, when they were added, and by whom.

    For example:

        stocktrace tickers list
        stocktrace tickers list --json --data-dir /srv/trades
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
    version_flags=[],
)
for _rank, (_command, _arguments) in enumerate(
    ((list_, ""), (add, "TICKERS..."), (remove, "TICKERS..."), (set_, "TICKERS..."))
):
    add_command(app, _command, _arguments, sort_key=_rank)


def _change(
    action: ChangeAction,
    tickers: Sequence[str],
    session: str | None,
    wait: str,
    data_dir: Path | None,
    *,
    as_json: bool,
) -> int:
    names, patience = parse_tickers(tickers), parse_duration(wait)
    layout = open_layout(data_dir)

    from stocktrace.live.control import ChangeRequest
    from stocktrace.live.ticker_requests import request_change
    from stocktrace.sessions.catalog import find_running_capture

    running = find_running_capture(layout, session)
    request = ChangeRequest(action, names, "cli")
    outcome = request_change(layout, running, request, patience)
    if as_json:
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
