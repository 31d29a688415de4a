"""``stocktrace merge``: two captures of the same tickers become one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from stocktrace.cli import output
from stocktrace.cli.output import Json
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.importing.merge import MergeOutcome

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
    from stocktrace.importing.merge import merge_sessions as merge_folders
    from stocktrace.store.layout import Layout

    done = merge_folders(
        Layout.from_settings(Settings.load(data_dir=into)),
        Layout(first),
        Layout(second),
        only_look=dry_run,
    )
    if as_json:
        output.print_json(done)
    else:
        _print(done)
    if done.state == "failed":
        output.print_error(done.reason)
    return 1 if done.state == "failed" else 0


def _print(done: MergeOutcome) -> None:
    reason = f" ({done.reason})" if done.reason and done.state != "failed" else ""
    output.print_line(f"{_WORDS[done.state].format(done.session)}{reason}")
    output.print_line(
        f"  {count_of(done.trades, 'trade')}: {done.both:,} heard by both, "
        f"{done.first:,} by the first alone, {done.second:,} by the second alone"
    )
    if done.clock_offset_s is None:
        output.print_line("  no trade was heard by both: receive times stand as they are")
    else:
        output.print_line(
            f"  the second received {done.clock_offset_s:+.3f} s later; that is taken off"
        )
    output.print_table(
        ["listened", "hours over all tickers"],
        [(by or "nobody", f"{seconds / 3600:.3f}") for by, seconds in done.listened_s.items()],
    )
