"""Two captures of the same tickers, by two machines with two keys, become one session.

1. By how much the receive times of the second are later than those of the first is told by the
   trades that both heard; it is taken off, so that all times are of one clock (``importing.alignment``).
2. Day by day and ticker by ticker, what both heard is taken once and what one heard alone is filled
   in (``importing.union``).
3. It becomes a session of a data folder of its own, through the code that records any tape
   (``importing``); on its tape stands who listened when (``joint``).

The two data folders are only read. The session is named after what is in them: the same two are
merged once. It counts as merged from the moment in which its folder of tapes gets its name; killed
after that, it is recovered like any other.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from stocktrace.clock import SYSTEM_CLOCK, Clock
from stocktrace.errors import StoreError, UsageError
from stocktrace.importing.adopt import is_data_folder
from stocktrace.importing.alignment import AlignedPair, MergeCounts
from stocktrace.importing.importer import ImportOrigin, import_frames
from stocktrace.importing.merged_coverage import merge_coverage
from stocktrace.importing.recorder_data import RecorderData
from stocktrace.importing.union import LATEST_US
from stocktrace.intervals import CoverageInterval
from stocktrace.record.recovery import (
    recover_session,
    sweep_temporaries,
)
from stocktrace.sessions.catalog import is_in_use, read_report, sessions_to_recover
from stocktrace.store.layout import Layout
from stocktrace.store.names import is_import, new_merge
from stocktrace.units import NS_PER_SECOND, US_PER_SECOND


@dataclass(frozen=True, slots=True)
class MergeOutcome:
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
    clock_offset_s: float | None
    listened_s: dict[str, float]
    reason: str = ""

    @property
    def trades(self) -> int:
        """All that either heard."""
        return self.both + self.first + self.second


def merge_sessions(
    into: Layout,
    first: Layout,
    second: Layout,
    clock: Clock = SYSTEM_CLOCK,
    *,
    only_look: bool = False,
) -> MergeOutcome:
    """Merge two data folders into a third, which is new; run again, it changes nothing.

    Raises:
        UsageError: these cannot be merged into that.
        StoreError: a session of them is alive or was not recovered, or their clocks disagree.
    """
    _check_folders(into, first, second)
    recordings = RecorderData(first), RecorderData(second)
    digest = hashlib.blake2b(b"".join(each.digest() for each in recordings)).hexdigest()
    known = into.imported_sessions(digest)
    if not known and (others := into.all_sessions()):
        raise UsageError(
            f"{into.root} has another session, {others[0]}: merge into a folder of its own."
        )
    pair = _align(*recordings)
    counts = pair.counts()
    if not sum(counts):
        raise StoreError(f"Neither {first.root} nor {second.root} has a trade: nothing to merge.")
    coverage = merge_coverage(
        [each for one in (pair.first, pair.second) for each in one.coverage()]
    )
    ahead_s = None if pair.ahead_us is None else pair.ahead_us / US_PER_SECOND
    outcome = MergeOutcome("", "possible", *counts, ahead_s, _listened_seconds(coverage))
    if known:
        return _publish_merge(into, known[0], outcome, clock, only_look=only_look)
    if only_look:
        return outcome
    into.root.mkdir(parents=True, exist_ok=True)
    sweep_temporaries(into)
    origin = _origin(pair, digest, counts, coverage)
    report = import_frames(into, origin, pair.frames(), clock)
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


def _check_folders(into: Layout, first: Layout, second: Layout) -> None:
    roots = [layout.root.resolve() for layout in (into, first, second)]
    if len(set(roots)) < len(roots):
        raise UsageError("Name three different folders: two to merge, and one to merge into.")
    for layout in (first, second):
        if not is_data_folder(layout.root):
            raise UsageError(f"{layout.root} is no data folder of stocktrace.")
        for session in layout.all_sessions():
            if is_in_use(layout, session):
                raise StoreError(
                    f"Session {session} of {layout.root} is alive: merge when it has ended."
                )
        if dead := sessions_to_recover(layout):
            raise StoreError(
                f"Session {dead[0]} of {layout.root} is not published whole: "
                f"run `stocktrace recover --data-dir {layout.root}` first."
            )


def _align(first: RecorderData, second: RecorderData) -> AlignedPair:
    pair = AlignedPair.of(first, second)
    if abs(pair.ahead_us or 0) > LATEST_US:
        raise StoreError(
            f"The receive times of {second.layout.root} are off those of {first.layout.root} by "
            f"{(pair.ahead_us or 0) / US_PER_SECOND:+,.0f} s: with a clock that was wrong by more than "
            "an hour it cannot be told which trades are the same."
        )
    return pair


def _listened_seconds(coverage: list[CoverageInterval]) -> dict[str, float]:
    seconds: Counter[str] = Counter()
    for each in coverage:
        seconds[each.sources] += each.end - each.start
    return {by: ns / NS_PER_SECOND for by, ns in sorted(seconds.items())}


def _publish_merge(
    into: Layout, session: str, outcome: MergeOutcome, clock: Clock, *, only_look: bool
) -> MergeOutcome:
    """What was merged before, and published by now if it was killed then."""
    if not only_look:
        recover_session(into, session, clock)
    report = read_report(into, session)
    wrong = [] if report is None else report.differences()
    state: Literal["failed", "known"] = "failed" if wrong else "known"
    return replace(outcome, session=session, state=state, reason="; ".join(wrong))


def _origin(
    pair: AlignedPair, digest: str, counts: MergeCounts, coverage: list[CoverageInterval]
) -> ImportOrigin:
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
    return ImportOrigin(
        digest, facts, f"merged from {names[0]} and {names[1]}", tuple(coverage), new_merge
    )
