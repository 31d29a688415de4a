"""Two captures of the same tickers, by two machines with two keys, become one session.

1. By how much the receive times of the second are later than those of the first is told by the
   trades that both heard; it is taken off, so that all times are of one clock (``store.pair``).
2. Day by day and ticker by ticker, what both heard is taken once and what one heard alone is filled
   in (``store.union``).
3. It becomes a session of a data folder of its own, through the code that records any tape
   (``importing``); on its tape stands who listened when (``joint``).

The two data folders are only read. The session is named after what is in them: the same two are
merged once. It counts as merged from the moment in which its folder of tapes gets its name; killed
after that, it is recovered like any other.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from stocktrace.deadline import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError, UsageError
from stocktrace.gap import Interval
from stocktrace.ingest.adopting import is_data_folder
from stocktrace.ingest.foreign import Row
from stocktrace.ingest.importing import Origin, import_rows
from stocktrace.ingest.joint import joint_coverage
from stocktrace.record.recovery import dead_sessions, read_report, recover_session, sweep
from stocktrace.store import lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import, new_merge
from stocktrace.store.pair import Counts, Pair, Trade
from stocktrace.store.recording import Recording
from stocktrace.store.union import LATEST_US

_NS_PER_US = 1000
_NS_PER_S = 1e9
_US_PER_S = 1e6


@dataclass(frozen=True, slots=True)
class Merged:
    """What became of a merge: published, here already, failed, or (only looked at) possible.

    ``both``, ``first`` and ``second`` count the trades that both heard, and those that one heard
    alone; ``ahead_s`` is how much later the second received, ``None`` if nothing tells;
    ``listened_s`` has the seconds, over all tickers, by the sessions that listened (``""``: none).
    """

    session: str
    state: Literal["published", "known", "possible", "failed"]
    both: int
    first: int
    second: int
    ahead_s: float | None
    listened_s: dict[str, float]
    reason: str = ""

    @property
    def trades(self) -> int:
        """All that either heard."""
        return self.both + self.first + self.second


def merge(
    into: Layout,
    first: Layout,
    second: Layout,
    clock: Clock = SYSTEM_CLOCK,
    *,
    only_look: bool = False,
) -> Merged:
    """Merge two data folders into a third, which is new; run again, it changes nothing.

    Raises:
        UsageError: these cannot be merged into that.
        StoreError: a session of them is alive or was not recovered, or their clocks disagree.
    """
    _check(into, first, second)
    recordings = Recording(first), Recording(second)
    digest = hashlib.blake2b(b"".join(each.digest() for each in recordings)).hexdigest()
    known = into.imports(digest)
    if not known and (others := into.all_sessions()):
        raise UsageError(
            f"{into.root} has another session, {others[0]}: merge into a folder of its own."
        )
    pair = _pair(*recordings)
    counts = pair.counts()
    if not sum(counts):
        raise StoreError(f"Neither {first.root} nor {second.root} has a trade: nothing to merge.")
    coverage = joint_coverage(
        [each for one in (pair.first, pair.second) for each in one.coverage()]
    )
    ahead_s = None if pair.ahead_us is None else pair.ahead_us / _US_PER_S
    outcome = Merged("", "possible", *counts, ahead_s, _listened(coverage))
    if known:
        return _settled(into, known[0], outcome, clock, only_look=only_look)
    if only_look:
        return outcome
    into.root.mkdir(parents=True, exist_ok=True)
    sweep(into)
    origin = _origin(pair, digest, counts, coverage)
    report = import_rows(into, origin, map(_rows, pair.trades()), clock)
    if report is None:
        return replace(outcome, state="known", reason="another process is at it")
    wrong = report.differences()
    if report.books.recorded != outcome.trades:
        wrong.append(f"{outcome.trades} trades to merge, but {report.books.recorded} recorded")
    return replace(
        outcome,
        session=report.session,
        state="failed" if wrong else "published",
        reason="; ".join(wrong),
    )


def _check(into: Layout, first: Layout, second: Layout) -> None:
    roots = [layout.root.resolve() for layout in (into, first, second)]
    if len(set(roots)) < len(roots):
        raise UsageError("Name three different folders: two to merge, and one to merge into.")
    for layout in (first, second):
        if not is_data_folder(layout.root):
            raise UsageError(f"{layout.root} is no data folder of stocktrace.")
        for session in layout.all_sessions():
            if lock.is_held(layout.lock(session)):
                raise StoreError(
                    f"Session {session} of {layout.root} is alive: merge when it has ended."
                )
        if dead := dead_sessions(layout):
            raise StoreError(
                f"Session {dead[0]} of {layout.root} is not published whole: "
                f"run `stocktrace recover --data-dir {layout.root}` first."
            )


def _pair(first: Recording, second: Recording) -> Pair:
    pair = Pair.of(first, second)
    if abs(pair.ahead_us or 0) > LATEST_US:
        raise StoreError(
            f"The receive times of {second.layout.root} are off those of {first.layout.root} by "
            f"{(pair.ahead_us or 0) / _US_PER_S:+,.0f} s: with a clock that was wrong by more than "
            "an hour it cannot be told which trades are the same."
        )
    return pair


def _listened(coverage: list[Interval]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for each in coverage:
        seconds[each.by] += each.end - each.start
    return {by: ns / _NS_PER_S for by, ns in sorted(seconds.items())}


def _settled(
    into: Layout, session: str, outcome: Merged, clock: Clock, *, only_look: bool
) -> Merged:
    """What was merged before, and published by now if it was killed then."""
    if not only_look:
        recover_session(into, session, clock)
    report = read_report(into, session)
    wrong = [] if report is None else report.differences()
    state: Literal["failed", "known"] = "failed" if wrong else "known"
    return replace(outcome, session=session, state=state, reason="; ".join(wrong))


def _origin(pair: Pair, digest: str, counts: Counts, coverage: list[Interval]) -> Origin:
    """What the merged session tells of itself."""
    recordings = pair.first, pair.second
    names = [str(each.layout.root.resolve()) for each in recordings]
    sessions = [
        " ".join(name for name in each.layout.all_sessions() if not is_import(name))
        for each in recordings
    ]
    facts = {
        "source": " + ".join(names),
        "content": digest,
        "first": sessions[0],
        "second": sessions[1],
        "second_ahead_us": "unknown" if pair.ahead_us is None else str(pair.ahead_us),
        "heard_by_both": str(counts.both),
        "heard_by_first": str(counts.first),
        "heard_by_second": str(counts.second),
    }
    return Origin(
        digest, facts, f"merged from {names[0]} and {names[1]}", tuple(coverage), new_merge
    )


def _rows(trades: list[Trade]) -> list[Row]:
    """The frames in which trades might have come."""
    return [
        (
            trade.received * _NS_PER_US,
            (
                f'{{"data":[{{"c":{_codes(trade.conditions)},"p":{trade.price!r},'
                f'"s":{_quoted(trade.ticker)},"t":{trade.event},"v":{trade.volume!r}}}],'
                '"type":"trade"}'
            ).encode(),
        )
        for trade in trades
    ]


@lru_cache(1 << 12)
def _codes(text: str) -> str:
    return json.dumps(text.split(" "), separators=(",", ":")) if text else "null"


@lru_cache(1 << 16)
def _quoted(text: str) -> str:
    return json.dumps(text)
