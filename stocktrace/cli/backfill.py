"""``stocktrace backfill`` and ``stocktrace reconcile``: what REST has of past days."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.data_dir import DataDir, open_layout
from stocktrace.cli.output import Json
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.feed.rest import RestClient
    from stocktrace.store.gap_fills import GapFill

Url = Annotated[
    str | None, Parameter(help="The WebSocket's address, whose host is asked; also STOCKTRACE_URL.")
]


def rest_of(settings: Settings) -> RestClient:
    """REST at the address of the settings, for their key.

    Raises:
        SettingsError: there is no key.
    """
    from stocktrace.feed.rest import RestClient, rest_url

    return RestClient(rest_url(settings.url), settings.key())


def backfill(
    *,
    dry_run: Annotated[
        bool, Parameter(negative="", help="Change nothing, say what would be fetched.")
    ] = False,
    url: Url = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Fill gaps of past sessions with ticks from Finnhub's REST API.

    Exits 1 if a gap that was requested is still open.
    """
    layout = open_layout(data_dir)

    from stocktrace.backfill.fill import fill_gaps
    from stocktrace.backfill.plan import plan_fills, postpone

    found: list[GapFill] = []
    try:
        if dry_run:
            todo = plan_fills(layout)
            found = [*todo.changed, *(one for errand in todo.tasks for one, _ in errand.parts)]
        else:
            with rest_of(Settings.load(data_dir=data_dir, url=url)) as rest:
                found.extend(fill_gaps(layout, rest))
    finally:
        _print(found, as_json=as_json)
    if not as_json:
        later = postpone(plan_fills(layout))
        if not found and not later:
            output.print_line("nothing to repair")
        for sentence in later:
            output.print_line(sentence)
    return 1 if not dry_run and any(one.state == "open" for one in found) else 0


def _print(found: list[GapFill], *, as_json: bool) -> None:
    if as_json:
        for one in found:
            output.print_json(one)
        return
    if not found:
        return
    kinds: dict[tuple[str, str, str, str], list[GapFill]] = {}
    for one in found:
        kinds.setdefault((one.date, one.state, one.reason, one.source), []).append(one)
    output.print_table(
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
    min_share: Annotated[
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
    layout = open_layout(data_dir)

    from stocktrace.backfill.reconcile import last_trading_day
    from stocktrace.backfill.reconcile import reconcile_day as compare
    from stocktrace.query.criteria import parse_day
    from stocktrace.trade import parse_tickers

    day = parse_day(date) or last_trading_day()
    wanted = parse_tickers(tickers) if tickers else ()
    found = []
    with rest_of(Settings.load(data_dir=data_dir, url=url)) as rest:
        for one in compare(layout, rest, day, wanted, min_share):
            found.append(one)
            if as_json:
                output.print_json(one)
    if not as_json:
        output.print_table(
            ["ticker", "state", "trades", "repaired", "ticks", "found", "of heard", "why"],
            [
                (
                    one.symbol,
                    one.state,
                    *map(
                        "{:,}".format,
                        (
                            one.trades,
                            one.repaired,
                            one.ticks,
                            one.ticks_matched,
                            one.ticks_listened,
                        ),
                    ),
                    one.reason,
                )
                for one in found
            ],
        )
    return 0 if all(one.state == "complete" for one in found) else 1
