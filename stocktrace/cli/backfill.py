"""``stocktrace backfill`` and ``stocktrace reconcile``: past days from Finnhub's REST API."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from stocktrace.cli import output
from stocktrace.cli.parameters import DataDir, Date, DryRun, Json, Url, open_layout
from stocktrace.settings import Settings

if TYPE_CHECKING:
    from stocktrace.query.gap_fills import GapFill

RestUrl = Annotated[
    Url | None, Parameter(help="The WebSocket (also STOCKTRACE_URL). REST is on the same host.")
]
_TickerList = Annotated[list[str] | None, Parameter(metavar="TICKER...", consume_multiple=True)]


def backfill(
    *, dry_run: DryRun = False, url: RestUrl = None, data_dir: DataDir = None, as_json: Json = False
) -> int:
    """Fill gaps of ended sessions with ticks from Finnhub's REST API.

    Needs an API key whose plan includes historical ticks. A day can be requested when US stocks
    have stopped trading. Exits 1 if a gap is still open after its request.

    $ stocktrace backfill --dry-run
    $ stocktrace backfill --data-dir /srv/trades
    """
    layout = open_layout(data_dir)

    from stocktrace.backfill.fill import fill_gaps
    from stocktrace.backfill.plan import describe_postponed, plan_fills
    from stocktrace.feed.rest import RestClient

    fills: list[GapFill] = []
    try:
        if dry_run:
            plan = plan_fills(layout)
            fills = [*plan.changed, *(fill for task in plan.tasks for fill, _ in task.parts)]
        else:
            with RestClient.open(Settings.load(data_dir=data_dir, url=url)) as rest:
                fills.extend(fill_gaps(layout, rest))
    finally:
        if as_json:
            for fill in fills:
                output.print_json(fill)
        elif fills:
            _print(fills)
    if not as_json:
        postponed = describe_postponed(plan_fills(layout))
        for sentence in postponed or ([] if fills else ["no gaps to fill"]):
            output.print_line(sentence)
    return 1 if not dry_run and any(fill.state == "open" for fill in fills) else 0


def _print(fills: Sequence[GapFill]) -> None:
    kinds: dict[tuple[str, str, str, str], list[GapFill]] = defaultdict(list)
    for fill in fills:
        kinds[fill.date, fill.state, fill.reason, fill.source].append(fill)
    output.print_table(
        ["date", "gaps", "tickers", "state", "trades", "session", "reason"],
        [
            (
                date,
                f"{len({(fill.session, fill.start, fill.end) for fill in some}):,}",
                f"{len({fill.symbol for fill in some}):,}",
                state,
                f"{sum(fill.rows for fill in some):,}",
                source,
                reason,
            )
            for (date, state, reason, source), some in sorted(kinds.items())
        ],
    )


def reconcile(
    *,
    date: Date | None = None,
    tickers: _TickerList = None,
    min_share: Annotated[float, Parameter(metavar="SHARE", validator=Number(gte=0, lte=1))] = 0.99,
    url: RestUrl = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Compare the trades of a day with the ticks of Finnhub's REST API.

    Needs an API key whose plan includes historical ticks. The result is also stored in the data
    folder. Exits 1 if a ticker is not complete or cannot be compared.

    $ stocktrace reconcile
    $ stocktrace reconcile --date 2026-11-23 --tickers AAPL MSFT

    Args:
        date: A date in New York: 2026-11-23. Defaults to the last day that has ended.
        tickers: Defaults to the US stocks recorded that day.
        min_share: A ticker is complete if this share of its ticks was recorded.
    """
    layout = open_layout(data_dir)

    from stocktrace.backfill.reconcile import last_trading_day, reconcile_day
    from stocktrace.feed.rest import RestClient
    from stocktrace.query.criteria import parse_day
    from stocktrace.trade import parse_tickers

    day = parse_day(date) or last_trading_day()
    wanted = parse_tickers(tickers) if tickers else ()
    rows = []
    with RestClient.open(Settings.load(data_dir=data_dir, url=url)) as rest:
        for row in reconcile_day(layout, rest, day, wanted, min_share):
            rows.append(row)
            if as_json:
                output.print_json(row)
    if not as_json:
        counts = attrgetter("trades", "repaired", "ticks", "ticks_matched", "ticks_listened")
        output.print_table(
            ["ticker", "state", "trades", "repaired", "ticks", "matched", "listened", "reason"],
            [(row.symbol, row.state, *map("{:,}".format, counts(row)), row.reason) for row in rows],
        )
    return 0 if all(row.state == "complete" for row in rows) else 1
