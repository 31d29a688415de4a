"""What no shard of a fleet listened to: named in the coverage of the lake that they share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from stocktrace.gap import Interval
from stocktrace.store import outbox
from stocktrace.store.coverage import listened, write_coverage
from stocktrace.store.layout import Layout
from stocktrace.store.window import NS_PER_DAY, utc_date


def name_gaps(lake: str, session: str, lost: Mapping[str, int], until: int, reason: str) -> int:
    """Write into the coverage of a lake when tickers of lost shards were not listened to.

    Args:
        lake: Its URL.
        session: The name under which it is written; writing it again replaces it.
        lost: When each of the tickers was heard last, as far as is known (epoch ns).
        until: When the fleet ended (epoch ns).
        reason: Why.

    Returns:
        How many gaps there are.

    Raises:
        LakeError: it cannot be used.
    """
    first = min(lost.values(), default=until) // NS_PER_DAY
    dates = [utc_date(day * NS_PER_DAY) for day in range(first, until // NS_PER_DAY + 1)]
    heard = listened(lake, list(lost), dates)
    gaps = [
        Interval(ticker, start, end, reason)
        for ticker, since in lost.items()
        for start, end in _between(heard.get(ticker, []), since, until)
    ]
    if gaps:
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(Path(folder), lake=lake)
            write_coverage(layout, session, gaps)  # which has it sent
            outbox.send(layout, session)
    return len(gaps)


def _between(heard: Iterable[tuple[int, int]], since: int, until: int) -> list[tuple[int, int]]:
    """What ``heard``, stretches sorted by start, leaves out from ``since`` to ``until``."""
    found = []
    for start, end in heard:
        if since < min(start, until):
            found.append((since, min(start, until)))
        since = max(since, end)
    if since < until:
        found.append((since, until))
    return found
