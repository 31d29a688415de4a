"""``stocktrace merge``: one data folder from two recorders of the same tickers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from stocktrace.cli import output
from stocktrace.cli.help import DryRun, Json
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.importing.merge import MergeOutcome

_STATES = {
    "published": "merged as {}",
    "known": "merged already, as {}",
    "possible": "would be merged{}",
    "failed": "merged as {}, and its books DO NOT balance",
}


def merge(
    first: Path, second: Path, *, into: Path, dry_run: DryRun = False, as_json: Json = False
) -> int:
    """Merge the data of two recorders of the same tickers: every trade once, gaps filled.

    FIRST and SECOND are not changed. If the command is interrupted, run it again to do the rest; a
    finished merge is not repeated. Exits 1 if a capture has not ended, or if the books do not
    balance.

    $ stocktrace merge here/data there/data --into merged --dry-run
    $ stocktrace merge here/data there/data --into merged

    Args:
        first: A data folder. Its clock is used.
        second: The data folder of the other recorder.
        into: The data folder to create.
    """
    from stocktrace.importing.merge import merge_sessions
    from stocktrace.store.layout import Layout

    outcome = merge_sessions(
        Layout.from_settings(Settings.load(data_dir=into)),
        Layout(first),
        Layout(second),
        dry_run=dry_run,
    )
    if as_json:
        output.print_json(outcome)
    else:
        _print(outcome)
    if outcome.state == "failed":
        output.print_error(outcome.reason)
    return 1 if outcome.state == "failed" else 0


def _print(outcome: MergeOutcome) -> None:
    reason = f" ({outcome.reason})" if outcome.reason and outcome.state != "failed" else ""
    output.print_line(f"{_STATES[outcome.state].format(outcome.session)}{reason}")
    output.print_line(
        f"  {count_of(outcome.trades, 'trade')}: {outcome.both:,} received by both, "
        f"{outcome.first:,} by the first only, {outcome.second:,} by the second only"
    )
    output.print_line(
        "  no trade was received by both: receive times are unchanged"
        if outcome.clock_offset_s is None
        else f"  the second received {outcome.clock_offset_s:+.3f} s later; its receive times are "
        "corrected by this"
    )
    output.print_table(
        ["listened", "hours over all tickers"],
        [(by or "neither", f"{seconds / 3600:.3f}") for by, seconds in outcome.listened_s.items()],
    )
