"""Markdown pages: the status of a capture, its report, a conversion. Every value is escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from operator import attrgetter

from stocktrace.live.fleet import Fleet
from stocktrace.record.recovery import ConversionResult, RecoveredSession
from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show.view import NAMELESS
from stocktrace.store.layout import Layout
from stocktrace.text import count_of, format_clock

# A page is for reading. The report on disk has everything.
MAX_ROWS = 50
MAX_BUSIEST = 20

_STATES = {
    "connecting": "Connecting",
    "connected": "Connected",
    "reconnecting": "Not connected",
    "ending": "Publishing the rest",
    "ended": "Ended",
}

_MARKUP = re.compile(r"([\\`*_\[\]<>|~#&$!])")


def escape_markdown(value: object) -> str:
    """Return ``value`` as text without markup, on one line."""
    return _MARKUP.sub(r"\\\1", " ".join(str(value).split()))


# --- a capture that runs ---------------------------------------------------------------------


def progress_line(status: CaptureStatus) -> str:
    """Describe a running capture in a line."""
    return " · ".join(
        [
            status.connection if status.connected else f"**{status.connection}**",
            count_of(status.trades, "trade"),
            count_of(len(status.tickers), "ticker"),
            count_of(status.reconnects, "reconnect"),
            f"{format_clock(status.remaining_s)} left",
        ]
    )


def status_line(status: CaptureStatus) -> str:
    """Describe the state of a capture, for a list of pages."""
    trades = count_of(status.trades, "trade")
    return f"{status.connection}: {trades}, {status.gap_summary}"


def status_page(status: CaptureStatus, before: CaptureStatus | None) -> str:
    """Describe a running capture. Rates are since ``before``, or since the session began."""
    seconds = status.elapsed_s - (before.elapsed_s if before else 0.0)
    earlier = before.per_ticker if before else {}
    counts = {**dict.fromkeys(status.tickers, 0), **status.per_ticker}
    busiest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_BUSIEST]

    def rate(now: int, then: int) -> str:
        return f"{(now - then) / seconds:,.1f}" if seconds > 0 else "0.0"

    parts = [f"# {_STATES[status.state]}"]
    if status.open_gap is not None or status.feed_lag_s:
        parts.append(f"**{status.connection.capitalize()}.**")
    if (retry := status.retry) is not None:
        when = f"{retry.at:%H:%M:%S} UTC"
        parts.append(f"**Attempt {retry.attempt} at {when}:** {escape_markdown(retry.reason)}")
    elapsed, left = format_clock(status.elapsed_s), format_clock(status.remaining_s)
    parts += [
        f"Session {escape_markdown(status.session)}, {elapsed} elapsed, {left} left.",
        _table(
            ("Trades", "A second", "Lag 50 % / 99 %", "Gaps", "Quarantined", "Waiting", "Parquet"),
            (
                status.trades,
                rate(status.trades, before.trades if before else 0),
                f"{_milliseconds(status.latency.p50)} / {_milliseconds(status.latency.p99)}",
                f"{status.all_gaps:,} ({status.all_gap_s:.1f} s)",
                status.quarantined,
                status.backlog,
                f"{status.published:,} of {count_of(status.rolled, 'window')}",
            ),
        ),
        _table(
            ("Ticker", "Trades", "A second", "Quarantined", "Waiting"),
            *(
                (
                    name or NAMELESS,
                    count,
                    rate(count, earlier.get(name, 0)),
                    status.quarantined_by_ticker.get(name, 0),
                    status.queued.get(name, 0),
                )
                for name, count in busiest
            ),
        ),
    ]
    if len(status.tickers) > MAX_BUSIEST:
        parts.append(f"… and {len(status.tickers) - MAX_BUSIEST} more.")
    if (gap := status.last_outage) is not None:
        span = f"{_time(gap.start)} to {gap.end:%H:%M:%S} UTC"
        parts.append(
            f"Last gap: {span}, {count_of(gap.tickers, 'ticker')}: {escape_markdown(gap.reason)}."
        )
    if status.written_at is not None:
        parts.append(f"As of {_time(status.written_at)} UTC.")
    return "\n\n".join(parts) + "\n"


def _milliseconds(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} ms"


# --- the report of a session -----------------------------------------------------------------


def report_line(report: SessionReport) -> str:
    """Describe a report in a line."""
    return f"{report.state}: {count_of(report.books.recorded, 'trade')} recorded"


def report_page(report: SessionReport, layout: Layout, failures: int = 0, picture: str = "") -> str:
    """Describe a report.

    ``failures`` are calls that Prefect did not answer. ``picture`` is a picture of the session as
    SVG, or a sentence that says why it is missing.
    """
    ended = report.ended or report.started
    duration = format_clock((ended - report.started).total_seconds())
    span = f"{_time(report.started)} to {_time(ended)} UTC ({duration})"
    parts = [
        f"# {escape_markdown(report.state.capitalize())}: {escape_markdown(report.reason)}",
        f"Session {escape_markdown(report.session)}, {span}.",
        *_picture(picture),
        "## Books",
        *_books(report),
        "## Tickers",
        *_tickers(report),
        "## Gaps",
        _gaps(report.gaps),
        "## Files",
        *_files(report, layout),
    ]
    if notes := list(_notes(report, failures)):
        parts += ["## Notes", "\n".join(f"- {escape_markdown(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _picture(picture: str) -> Iterator[str]:
    if picture.startswith("<svg"):
        data = base64.b64encode(picture.encode()).decode()
        yield f"![Price and volume, gaps shaded](data:image/svg+xml;base64,{data})"
    elif picture:
        yield f"No picture: {escape_markdown(picture)}"


def _books(report: SessionReport) -> Iterator[str]:
    books = report.books
    published = sum(ticker.parquet for ticker in report.per_ticker.values())
    yield _table(
        ("Frames", "", "Trades", ""),
        ("received", books.frames, "received", books.trades),
        ("with trades", books.trade_frames, "recorded", books.recorded),
        ("control", books.control, "quarantined", books.quarantined),
        ("undecodable", books.undecodable, "in Parquet", published),
    )
    if differences := report.differences():
        yield f"**The books do not balance:** {escape_markdown('; '.join(differences))}."
    else:
        yield "The books balance."


def _tickers(report: SessionReport) -> Iterator[str]:
    busiest = sorted(report.per_ticker.items(), key=lambda item: (-item[1].trades, item[0]))
    counts = attrgetter("trades", "recorded", "quarantined", "parquet")
    yield _table(
        ("Ticker", "Trades", "Recorded", "Quarantined", "In Parquet"),
        *((name or NAMELESS, *counts(books)) for name, books in busiest),
    )
    if silent := [name for name in report.tickers if name not in report.per_ticker]:
        more = f" … and {len(silent) - MAX_ROWS} more" if len(silent) > MAX_ROWS else ""
        yield f"No trades of {escape_markdown(', '.join(silent[:MAX_ROWS]))}{more}."


def _gaps(gaps: Sequence[GapReport]) -> str:
    if not gaps:
        return "None."
    return _table(
        ("From (UTC)", "To", "Seconds", "Tickers", "Reason"),
        *(
            (
                _time(gap.start),
                _time(gap.end),
                f"{(gap.end - gap.start).total_seconds():.1f}",
                gap.tickers,
                gap.reason,
            )
            for gap in gaps
        ),
    )


def _files(report: SessionReport, layout: Layout) -> Iterator[str]:
    size = f"{count_of(report.files, 'Parquet file')}, {report.size // 1000:,} kB"
    yield _table(
        ("What", "Where"),
        (size, layout.dataset.resolve()),
        ("the tape", layout.tapes(report.session).resolve()),
        ("the report", layout.report(report.session).resolve()),
    )
    if report.unpublished:
        yield (
            f"**{count_of(len(report.unpublished), 'window')} not in Parquet yet:** run "
            f"stocktrace convert --data-dir {escape_markdown(layout.root.resolve())}"
        )


def _notes(report: SessionReport, failures: int) -> Iterator[str]:
    lag = report.latency
    if lag.p50 is not None and lag.p99 is not None:
        yield f"from trade to receipt: p50 {lag.p50:,.0f} ms, p99 {lag.p99:,.0f} ms"
    if report.reconnects:
        yield count_of(report.reconnects, "reconnect")
    yield from (f"tickers changed {change}" for change in report.changes[:MAX_ROWS])
    yield from report.notices[:MAX_ROWS]
    for text, times in list(report.errors.items())[:MAX_ROWS]:
        yield f"the server said {count_of(times, 'time')}: {text}"
    for window, tickers in list(report.spilled.items())[:MAX_ROWS]:
        yield f"window {window} was rebuilt from its tape for {count_of(len(tickers), 'ticker')}"
    if report.feed_note:
        yield report.feed_note
    if report.duplicates_warning:
        yield report.duplicates_warning
    if failures:
        yield f"Prefect did not answer {count_of(failures, 'call')}"


# --- a conversion, a fleet -------------------------------------------------------------------


def conversion_line(recovered: Sequence[RecoveredSession], conversion: ConversionResult) -> str:
    """Describe what a recovery and a conversion published, in a sentence."""
    if not recovered and not conversion.files and not conversion.failed:
        return "Everything was published already."
    rows = conversion.rows + sum(session.rows for session in recovered)
    text = (
        f"{count_of(len(recovered), 'session')} recovered, "
        f"{count_of(conversion.files, 'window')} converted, {count_of(rows, 'trade')} published"
    )
    unbalanced = (session.session for session in recovered if not session.balanced)
    problems = conversion.failed + [f"the books of {name} do not balance" for name in unbalanced]
    if not problems:
        return f"{text}."
    return f"{text}; {count_of(len(problems), 'problem')}, the first: {problems[0]}"


def conversion_page(recovered: Sequence[RecoveredSession], conversion: ConversionResult) -> str:
    """Describe what a recovery and a conversion published, with each session."""
    lines = [f"# {escape_markdown(conversion_line(recovered, conversion))}", ""]
    lines += [
        f"- session {escape_markdown(session.session)}: {count_of(session.windows, 'window')}, "
        f"{count_of(session.rows, 'trade')}, the books "
        f"{'balance' if session.balanced else '**do not balance**'}"
        for session in recovered
    ]
    lines += [f"- **failed:** {escape_markdown(sentence)}" for sentence in conversion.failed]
    return "\n".join(lines) + "\n"


def fleet_page(fleet: Fleet, failures: int) -> str:
    """List the shards of a fleet and the tickers that none of them captures."""
    parts = [
        _table(
            ("Shard", "State", "Tickers", "Expected trades/s"),
            *(
                (run.name, run.state.capitalize(), len(run.shard.tickers), f"{run.shard.rate:.1f}")
                for run in fleet.runs
            ),
        )
    ]
    if waiting := fleet.unsent:
        parts.append(f"**Not handed over yet:** {escape_markdown(' '.join(waiting))}")
    if fleet.abandoned:
        names = " ".join(sorted(fleet.abandoned))
        parts.append(f"**Not captured any more:** {escape_markdown(names)}")
    if failures:
        parts.append(f"Prefect did not answer {count_of(failures, 'call')}.")
    return "\n\n".join(parts)


def _table(head: Sequence[str], *rows: Sequence[object]) -> str:
    """Return the first rows as a table, with numbers aligned right, and the number of the rest."""
    first: Sequence[object] = rows[0] if rows else head
    numeric = [str(value).replace(".", "", 1).isdigit() for value in first]
    lines = [head, ["---:" if right else "---" for right in numeric]]
    lines += [[_cell(value) for value in row] for row in rows[:MAX_ROWS]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    rest = len(rows) - MAX_ROWS
    return f"{table}\n\n… and {rest} more." if rest > 0 else table


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape_markdown(value)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
