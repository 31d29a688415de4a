"""Merge of two captures of the same tickers, by two machines with two keys, into one session.

1. The trades that both received show how much later the second received them. That is subtracted,
   so that all times are by one clock (``alignment``).
2. Day by day and ticker by ticker, the trades of both are united.
3. They become a session of a third data folder (``importer``), whose tapes also say who listened
   when.

The two data folders are only read. The session is named after their content: the same two are
merged once. If it is killed after its folder of tapes has its name, recovery does the rest.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from stocktrace.errors import StoreError, UsageError
from stocktrace.importing.adopt import is_data_folder
from stocktrace.importing.alignment import AlignedPair, RecorderData
from stocktrace.importing.importer import ImportOrigin, import_frames
from stocktrace.intervals import CoverageInterval
from stocktrace.record.recovery import recover_session, sweep_temporaries
from stocktrace.sessions.catalog import is_in_use, read_report, sessions_to_recover
from stocktrace.store.files import make_folder
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import, new_merge
from stocktrace.units import NS_PER_SECOND, US_PER_SECOND

_AND = " + "


MergeState = Literal["published", "known", "possible", "failed"]


@dataclass(frozen=True, slots=True)
class MergeOutcome:
    """The result of a merge: published, here already, failed, or (in a dry run) possible.

    ``both`` counts the trades that both received, ``first`` and ``second`` those that only one did.
    ``clock_offset_s`` is how much later the second received them, ``None`` if unknown.
    ``listened_s`` has the seconds, over all tickers, by the sessions that listened (``""``: none).
    """

    session: str
    state: MergeState
    both: int
    first: int
    second: int
    clock_offset_s: float | None
    listened_s: dict[str, float]
    reason: str = ""

    @property
    def trades(self) -> int:
        """The trades of the merge."""
        return self.both + self.first + self.second


def merge_sessions(
    into: Layout, first: Layout, second: Layout, *, dry_run: bool = False
) -> MergeOutcome:
    """Merge two data folders into a third, new one; running it again changes nothing.

    Raises:
        UsageError: the folders cannot be merged, or not into that one.
        StoreError: a session is running or needs recovery, or the clocks differ by too much.
    """
    _check_folders(into, first, second)
    recordings = RecorderData(first), RecorderData(second)
    digest = hashlib.blake2b(b"".join(data.digest() for data in recordings)).hexdigest()
    known = into.imported_sessions(digest)
    if not known and (others := into.all_sessions()):
        raise UsageError(f"{into.root} has another session, {others[0]}: merge into a new folder.")
    pair = AlignedPair.of(*recordings)
    counts = pair.counts()
    if not sum(counts):
        raise StoreError(f"Neither {first.root} nor {second.root} has a trade: nothing to merge.")
    coverage = merge_coverage([*pair.first.coverage(), *pair.second.coverage()])
    offset_s = None if pair.offset_us is None else pair.offset_us / US_PER_SECOND
    outcome = MergeOutcome("", "possible", *counts, offset_s, _listened_seconds(coverage))
    if dry_run and not known:
        return outcome
    state: MergeState = "known" if known else "published"
    if known:
        session = known[0]
        if not dry_run:  # it may have been killed before everything was published
            recover_session(into, session)
        report = read_report(into, session)
        wrong = [] if report is None else report.differences()
    else:
        make_folder(into.root)
        sweep_temporaries(into)
        report = import_frames(into, _origin(pair, digest, outcome, coverage), pair.frames())
        if report is None:
            return replace(outcome, state="known", reason="another process publishes it")
        session, wrong = report.session, report.differences()
        if report.books.recorded != outcome.trades:
            wrong.append(f"{outcome.trades} trades to merge, but {report.books.recorded} recorded")
    if wrong:
        state = "failed"
    return replace(outcome, session=session, state=state, reason="; ".join(wrong))


def _check_folders(into: Layout, first: Layout, second: Layout) -> None:
    roots = [layout.root.resolve() for layout in (into, first, second)]
    if len(set(roots)) < len(roots):
        raise UsageError("Name three different folders: two to merge, and one to merge into.")
    for layout in (first, second):
        if not is_data_folder(layout.root):
            raise UsageError(f"{layout.root} is not a data folder of stocktrace.")
        for session in layout.all_sessions():
            if is_in_use(layout, session):
                raise StoreError(
                    f"Session {session} of {layout.root} is running: merge when it has ended."
                )
        if crashed := sessions_to_recover(layout, remember=False):
            raise StoreError(
                f"Session {crashed[0]} of {layout.root} is not published completely: "
                f"run `stocktrace recover --data-dir {layout.root}` first."
            )


def _listened_seconds(coverage: list[CoverageInterval]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for interval in coverage:
        seconds[interval.sources] += interval.end - interval.start
    return {sources: ns / NS_PER_SECOND for sources, ns in sorted(seconds.items())}


def _origin(
    pair: AlignedPair, digest: str, outcome: MergeOutcome, coverage: list[CoverageInterval]
) -> ImportOrigin:
    """Describe the merge for its report and tapes."""
    recordings = pair.first, pair.second
    names = [str(data.layout.root.resolve()) for data in recordings]
    sessions = [
        " ".join(name for name in data.layout.all_sessions() if not is_import(name))
        for data in recordings
    ]
    facts = {
        "source": " + ".join(names),
        "content": digest,
        "first": sessions[0],
        "second": sessions[1],
        "second_offset_us": "unknown" if pair.offset_us is None else str(pair.offset_us),
        "received_by_both": str(outcome.both),
        "received_by_first": str(outcome.first),
        "received_by_second": str(outcome.second),
    }
    return ImportOrigin(
        digest, facts, f"merged from {names[0]} and {names[1]}", tuple(coverage), new_merge
    )


def merge_coverage(intervals: Iterable[CoverageInterval]) -> list[CoverageInterval]:
    """Merge the coverage of several sessions; ``sources`` of each interval names its session.

    A ticker is listened to while any session listens, and ``sources`` has all that do. Otherwise
    it is a gap with the reasons of all. It has no interval while no session subscribed to it.
    """
    tickers: dict[str, list[CoverageInterval]] = defaultdict(list)
    for interval in intervals:
        tickers[interval.ticker].append(interval)
    return [each for ticker in sorted(tickers) for each in _overlay(ticker, tickers[ticker])]


def _overlay(ticker: str, intervals: list[CoverageInterval]) -> list[CoverageInterval]:
    """Cut at each edge, and join neighbours with the same reason and sources."""
    edges: dict[int, list[tuple[CoverageInterval, int]]] = defaultdict(list)
    for interval in intervals:
        edges[interval.start].append((interval, 1))
        edges[interval.end].append((interval, -1))
    listening: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    merged: list[CoverageInterval] = []
    before = 0
    for edge in sorted(edges):
        sources = _AND.join(sorted(+listening))
        reason = "" if sources else "; ".join(sorted(+reasons))
        if merged and merged[-1] == replace(merged[-1], end=before, reason=reason, sources=sources):
            merged[-1] = replace(merged[-1], end=edge)
        elif sources or reason:
            merged.append(CoverageInterval(ticker, before, edge, reason, sources))
        for interval, change in edges[edge]:
            if interval.reason:
                reasons[interval.reason] += change
            else:
                for session in interval.sources.split(_AND):
                    listening[session] += change
        before = edge
    return merged
