"""``stocktrace backfill --gaps`` and ``stocktrace reconcile``: what REST has of past days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.folder import DataDir, layout_of
from stocktrace.cli.output import Json
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.feed.rest import Rest
    from stocktrace.store.repairs import Repair

Url = Annotated[
    str | None, Parameter(help="The WebSocket's address, whose host is asked; also STOCKTRACE_URL.")
]


def rest_of(settings: Settings) -> Rest:
    """REST at the address of the settings, for their key.

    Raises:
        SettingsError: there is no key.
    """
    from stocktrace.feed.rest import Rest, rest_url

    return Rest(rest_url(settings.url), settings.key())


def repair(data_dir: Path | None, url: str | None, *, only_look: bool, as_json: bool) -> int:
    """Repair gaps, print what became of each kind; exits 1 if one is open that was asked for."""
    layout = layout_of(data_dir)

    from stocktrace.repair.errands import plan, put_off
    from stocktrace.repair.repair import repair_gaps

    found: list[Repair] = []
    try:
        if only_look:
            todo = plan(layout)
            found = [*todo.news, *(one for errand in todo.errands for one, _ in errand.parts)]
        else:
            with rest_of(Settings.load(data_dir=data_dir, url=url)) as rest:
                found.extend(repair_gaps(layout, rest))
    finally:
        _print(found, as_json=as_json)
    if not as_json:
        later = put_off(plan(layout))
        if not found and not later:
            output.line("nothing to repair")
        for sentence in later:
            output.line(sentence)
    return 1 if not only_look and any(one.state == "open" for one in found) else 0


def _print(found: list[Repair], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            output.json(one)
        return
    if not found:
        return
    kinds: dict[tuple[str, str, str, str], list[Repair]] = {}
    for one in found:
        kinds.setdefault((one.date, one.state, one.reason, one.source), []).append(one)
    output.table(
        ["date", "gaps", "tickers", "became", "trades", "session", "why"],
        [
            (
                date,
                f"{len({(one.session, one.start, one.end) for one in some}):,}",
                f"{len({one.symbol for one in some}):,}",
                state,
                f"{sum(one.rows for one in some):,}",
                source,
                reason,
            )
            for (date, state, reason, source), some in sorted(kinds.items())
        ],
    )


def reconcile(
    *,
    date: Annotated[
        str | None, Parameter(help="A New York date: 2026-11-23; default: the last that is over.")
    ] = None,
    tickers: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True, help="Default: the US stocks that were captured that day."
        ),
    ] = None,
    least: Annotated[
        float, Parameter(validator=Number(gte=0, lte=1), help="Share that makes a day complete.")
    ] = 0.99,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Compare a day's published trades with the ticks that Finnhub's REST has of it.

    The table is kept in the data folder, too. Exits 1 if a ticker is not complete, or cannot be
    compared.
    """
    layout = layout_of(data_dir)

    from stocktrace.repair.reconcile import last_day
    from stocktrace.repair.reconcile import reconcile as compare
    from stocktrace.store.query import parse_day
    from stocktrace.trade import parse_tickers

    day = parse_day(date) or last_day()
    wanted = parse_tickers(tickers) if tickers else ()
    found = []
    with rest_of(Settings.load(data_dir=data_dir, url=url)) as rest:
        for one in compare(layout, rest, day, wanted, least):
            found.append(one)
            if as_json:
                output.json(one)
    if not as_json:
        output.table(
            ["ticker", "state", "trades", "repaired", "ticks", "found", "of heard", "why"],
            [
                (
                    one.symbol,
                    one.state,
                    *map(
                        "{:,}".format, (one.trades, one.repaired, one.ticks, one.found, one.heard)
                    ),
                    one.reason,
                )
                for one in found
            ],
        )
    return 0 if all(one.state == "complete" for one in found) else 1
