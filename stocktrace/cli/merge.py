"""``stocktrace merge``: two captures of the same tickers become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.output import Json
from stocktrace.settings import Settings
from stocktrace.words import counted

if TYPE_CHECKING:
    from stocktrace.ingest.merging import Merged

_WORDS = {
    "published": "merged as {}",
    "known": "merged already, as {}",
    "possible": "would be merged{}",
    "failed": "merged as {}, and its books DO NOT balance",
}


def merge(
    first: Annotated[Path, Parameter(help="A data folder; its clock is the one that counts.")],
    second: Annotated[Path, Parameter(help="The data folder of the other recorder.")],
    *,
    into: Annotated[Path, Parameter(help="The data folder to make: a new one.")],
    dry_run: Annotated[
        bool, Parameter(negative="", help="Change nothing, say what would be.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Merge what two recorders heard of the same tickers: every trade once, gaps filled.

    FIRST and SECOND are not changed. Killed anywhere, the same command does the rest; run again, it
    changes nothing. Exits 1 if a capture is not over, or the books do not balance.
    """
    from stocktrace.ingest.merging import merge as merge_folders
    from stocktrace.store.layout import Layout

    done = merge_folders(
        Layout.of(Settings.load(data_dir=into)), Layout(first), Layout(second), only_look=dry_run
    )
    if as_json:
        output.json(done)
    else:
        _print(done)
    if done.state == "failed":
        output.complain(done.reason)
    return 1 if done.state == "failed" else 0


def _print(done: Merged) -> None:
    reason = f" ({done.reason})" if done.reason and done.state != "failed" else ""
    output.line(f"{_WORDS[done.state].format(done.session)}{reason}")
    output.line(
        f"  {counted(done.trades, 'trade')}: {done.both:,} heard by both, "
        f"{done.first:,} by the first alone, {done.second:,} by the second alone"
    )
    if done.ahead_s is None:
        output.line("  no trade was heard by both: receive times stand as they are")
    else:
        output.line(f"  the second received {done.ahead_s:+.3f} s later; that is taken off")
    output.table(
        ["listened", "hours over all tickers"],
        [(by or "nobody", f"{seconds / 3600:.3f}") for by, seconds in done.listened_s.items()],
    )
