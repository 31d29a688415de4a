"""``stocktrace tickers``: the tickers of a capture that runs, shown and changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import cyclopts
import msgspec
from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.output import Json
from stocktrace.text import count_of
from stocktrace.trade import parse_tickers
from stocktrace.units import parse_duration

if TYPE_CHECKING:
    from stocktrace.live.control import ChangeAction, ChangeRequest
    from stocktrace.live.ticker_requests import ChangeOutcome

app = cyclopts.App(
    name="tickers",
    help="Show or change the tickers of a capture that runs.",
    help_format="plaintext",
    version_flags=[],
    result_action="return_value",
)

SessionName = Annotated[
    str | None, Parameter(name="--session", help="Which capture; needed if several run.")
]
Wait = Annotated[
    str, Parameter(help="How long to wait for the capture's answer, at most; else status 1.")
]


@app.command
def add(
    *tickers: str,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Capture TICKERS, too.

    Status 0: they are subscribed, or will be as soon as there is a connection. Status 1: the
    server refuses one, or the capture did not answer.
    """
    return _change("add", tickers, session, wait, data_dir, as_json=as_json)


@app.command
def remove(
    *tickers: str,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Capture TICKERS no more; what was recorded of them stays."""
    return _change("remove", tickers, session, wait, data_dir, as_json=as_json)


@app.command(name="set")
def set_(
    *tickers: str,
    session: SessionName = None,
    wait: Wait = "15s",
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Capture TICKERS and no others."""
    return _change("set", tickers, session, wait, data_dir, as_json=as_json)


@app.command(name="list")
def list_(*, session: SessionName = None, data_dir: DataDir = None, as_json: Json = False) -> int:
    """List the tickers that are captured, since when, and who asked for them."""
    layout = open_layout(data_dir)

    from stocktrace.sessions.catalog import find_running_capture
    from stocktrace.sessions.report import SessionReport

    report = SessionReport.read(layout.report(find_running_capture(layout, session)))
    if as_json:
        names = ("session", "tickers", "changes", "refused")
        output.print_json({name: getattr(report, name) for name in names})
        return 0
    asked = {ticker: change for change in report.changes for ticker in change.added}
    output.print_table(
        ["ticker", "since", "by", "refused"],
        [
            (
                ticker,
                f"{asked[ticker].at if ticker in asked else report.started:%Y-%m-%d %H:%M:%S}",
                asked[ticker].by if ticker in asked else "",
                report.refused.get(ticker, ""),
            )
            for ticker in report.tickers
        ],
    )
    return 0


def _change(
    action: ChangeAction,
    tickers: Sequence[str],
    session: str | None,
    wait: str,
    data_dir: DataDir,
    *,
    as_json: bool,
) -> int:
    names, within = parse_tickers(tickers), parse_duration(wait)
    layout = open_layout(data_dir)

    from stocktrace.live.control import ChangeRequest
    from stocktrace.live.ticker_requests import request_change
    from stocktrace.sessions.catalog import find_running_capture

    name = find_running_capture(layout, session)
    change = ChangeRequest(action, names, "cli")
    outcome = request_change(layout, name, change, within)
    if as_json:
        output.print_json({"session": name, **msgspec.to_builtins(outcome)})
    elif not outcome.error:
        _print(name, change, outcome)
    sentences = [f"{ticker} is refused: {text}" for ticker, text in outcome.refused.items()]
    if outcome.unanswered:
        sentences.append(f"The server says: {outcome.unanswered}. See `stocktrace tickers list`.")
    if outcome.error:
        sentences.append(outcome.error)
    for sentence in sentences:
        output.print_error(sentence)
    return 1 if sentences else 0


def _print(session: str, change: ChangeRequest, outcome: ChangeOutcome) -> None:
    changed = [*(f"+{t}" for t in outcome.added), *(f"-{t}" for t in outcome.removed)]
    print(
        f"session {session}: {' '.join(changed) or 'nothing to change'}; "
        f"{count_of(len(outcome.captured), 'ticker')}"
    )
    if outcome.added and not outcome.connected:
        print("  there is no connection now: they are asked for when there is one")
    if change.action == "remove" and (others := set(change.tickers) - set(outcome.removed)):
        print(f"  not captured anyway: {' '.join(sorted(others))}")
