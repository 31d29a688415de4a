"""How a capture stands, and its report, as pages of Markdown; every value on them is escaped."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime

from stocktrace.sessions.report import GapReport, SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.show.view import NAMELESS
from stocktrace.store.layout import Layout
from stocktrace.text import count_of, describe_gaps, format_clock

# A page is for reading; all there is stands in the session's report on disk.
ROWS = 50
BUSIEST = 20

_STATES = {
    "connecting": "Connecting",
    "connected": "Connected",
    "reconnecting": "Not connected",
    "ending": "Publishing the rest",
    "ended": "Ended",
}

_ACTIVE = re.compile(r"([\\`*_\[\]<>|~#&$!])")


def escape_markdown(value: object) -> str:
    """``value`` as text that is no markup, on one line."""
    return _ACTIVE.sub(r"\\\1", " ".join(str(value).split()))


def progress_line(status: CaptureStatus) -> str:
    """How a capture stands."""
    return " · ".join(
        [
            "connected" if status.connected else "**not connected**",
            count_of(status.trades, "trade"),
            count_of(len(status.tickers), "ticker"),
            count_of(status.reconnects, "reconnect"),
            f"{format_clock(status.remaining_s)} left",
        ]
    )


def status_line(status: CaptureStatus) -> str:
    """The state of a capture, for where a page is only named."""
    gaps = describe_gaps(status.gaps, status.gap_s, status.gaps - status.outages)
    return f"{_STATES[status.state].lower()}: {count_of(status.trades, 'trade')}, {gaps}"


def status_page(status: CaptureStatus, before: CaptureStatus | None) -> str:
    """How a capture stands; rates are those since ``before``, else since it began."""
    seconds = status.elapsed_s - (before.elapsed_s if before else 0.0)
    earlier = before.per_ticker if before else {}

    def rate(now: int, then: int) -> str:
        return f"{(now - then) / seconds:,.1f}" if seconds > 0 else "0.0"

    elapsed, left, lag = (
        format_clock(status.elapsed_s),
        format_clock(status.remaining_s),
        status.latency,
    )
    parts = [
        f"# {_STATES[status.state]}",
        f"Session {escape_markdown(status.session)}, {elapsed} elapsed, {left} left.",
        _table(
            ("Trades", "A second", "Lag 50 % / 99 %", "Gaps", "Quarantined", "Waiting", "Parquet"),
            [
                (
                    status.trades,
                    rate(status.trades, before.trades if before else 0),
                    f"{_ms(lag.p50)} / {_ms(lag.p99)}",
                    f"{status.gaps:,} ({status.gap_s:.1f} s)",
                    status.quarantined,
                    status.backlog,
                    f"{status.published:,} of {count_of(status.rolled, 'window')}",
                )
            ],
        ),
        _table(
            ("Ticker", "Trades", "A second", "Quarantined", "Waiting"),
            [
                (
                    name or NAMELESS,
                    count,
                    rate(count, earlier.get(name, 0)),
                    status.quarantined_by_ticker.get(name, 0),
                    status.queued.get(name, 0),
                )
                for name, count in _busiest(status)[:BUSIEST]
            ],
        ),
    ]
    if len(status.tickers) > BUSIEST:
        parts.append(f"… and {len(status.tickers) - BUSIEST} more.")
    if (retry := status.retry) is not None:
        when = f"{retry.at:%H:%M:%S} UTC"
        parts.insert(1, f"**Attempt {retry.attempt} at {when}:** {escape_markdown(retry.reason)}")
    if (gap := status.last_outage) is not None:
        span = f"{_time(gap.start)} to {gap.end:%H:%M:%S} UTC"
        parts.append(
            f"Last gap: {span}, {count_of(gap.tickers, 'ticker')}: {escape_markdown(gap.reason)}."
        )
    if status.written_at is not None:
        parts.append(f"As of {_time(status.written_at)} UTC.")
    return "\n\n".join(parts) + "\n"


def _busiest(status: CaptureStatus) -> list[tuple[str, int]]:
    counts = {**dict.fromkeys(status.tickers, 0), **status.per_ticker}
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _ms(value: float | None) -> str:
    return "?" if value is None else f"{value:,.0f} ms"


def report_line(report: SessionReport) -> str:
    """What a capture came to."""
    return f"{report.state}: {count_of(report.books.recorded, 'trade')} recorded"


def report_page(report: SessionReport, layout: Layout, failures: int = 0, drawn: str = "") -> str:
    """The report.

    ``failures`` are calls that Prefect did not answer; ``drawn`` is a picture of the session as
    SVG, or a sentence that says why there is none.
    """
    ended = report.ended or report.started
    took = format_clock((ended - report.started).total_seconds())
    when = f"{_time(report.started)} to {_time(ended)} UTC ({took})"
    parts = [
        f"# {escape_markdown(report.state.capitalize())}: {escape_markdown(report.reason)}",
        f"Session {escape_markdown(report.session)}, {when}.",
        *([_picture(drawn)] if drawn else []),
        "## Books",
        *_books(report),
        "## Tickers",
        *_tickers(report),
        "## Gaps",
        *_gaps(report.gaps),
        "## Files",
        *_files(report, layout),
    ]
    if notes := list(_notes(report, failures)):
        parts += ["## Notes", "\n".join(f"- {escape_markdown(note)}" for note in notes)]
    return "\n\n".join(parts) + "\n"


def _picture(drawn: str) -> str:
    if not drawn.startswith("<svg"):
        return f"No picture: {escape_markdown(drawn)}"
    data = base64.b64encode(drawn.encode()).decode()
    return f"![Price and volume, gaps shaded](data:image/svg+xml;base64,{data})"


def _books(report: SessionReport) -> Iterator[str]:
    books = report.books
    published = sum(one.parquet for one in report.per_ticker.values())
    yield _table(
        ("Frames", "", "Trades", ""),
        [
            ("received", books.frames, "received", books.trades),
            ("with trades", books.trade_frames, "recorded", books.recorded),
            ("control", books.control, "quarantined", books.quarantined),
            ("undecodable", books.undecodable, "in Parquet", published),
        ],
    )
    differences = report.differences()
    if differences:
        yield f"**The books do not balance:** {escape_markdown('; '.join(differences))}."
    else:
        yield "The books balance."


def _tickers(report: SessionReport) -> Iterator[str]:
    busiest = sorted(report.per_ticker.items(), key=lambda item: (-item[1].trades, item[0]))
    yield _table(
        ("Ticker", "Trades", "Recorded", "Quarantined", "In Parquet", "Files", "kB"),
        [
            (
                name or NAMELESS,
                one.trades,
                one.recorded,
                one.quarantined,
                one.parquet,
                one.files,
                one.size // 1000,
            )
            for name, one in busiest[:ROWS]
        ],
    )
    if len(busiest) > ROWS:
        yield f"… and {len(busiest) - ROWS} more."
    if silent := [name for name in report.tickers if name not in report.per_ticker]:
        more = f" … and {len(silent) - ROWS} more" if len(silent) > ROWS else ""
        yield f"Nothing was heard of {escape_markdown(', '.join(silent[:ROWS]))}{more}."


def _gaps(gaps: Sequence[GapReport]) -> Iterator[str]:
    if not gaps:
        yield "None."
        return
    yield _table(
        ("From (UTC)", "To", "Seconds", "Tickers", "Reason"),
        [
            (
                _time(gap.start),
                _time(gap.end),
                f"{(gap.end - gap.start).total_seconds():.1f}",
                gap.tickers,
                gap.reason,
            )
            for gap in gaps[:ROWS]
        ],
    )
    if len(gaps) > ROWS:
        yield f"… and {len(gaps) - ROWS} more."


def _files(report: SessionReport, layout: Layout) -> Iterator[str]:
    files = sum(one.files for one in report.per_ticker.values())
    size = sum(one.size for one in report.per_ticker.values())
    root = layout.root.resolve()
    yield _table(
        ("What", "Where"),
        [
            (f"{count_of(files, 'Parquet file')}, {size // 1000:,} kB", layout.dataset.resolve()),
            ("the tape", layout.tapes(report.session).resolve()),
            ("the report", layout.report(report.session).resolve()),
        ],
    )
    if report.unpublished:
        yield (
            f"**{count_of(len(report.unpublished), 'window')} not in Parquet yet:** run "
            f"stocktrace convert --data-dir {escape_markdown(root)}"
        )


def _notes(report: SessionReport, failures: int) -> Iterator[str]:
    lag = report.latency
    if lag.p50 is not None and lag.p99 is not None:
        yield f"from trade to receipt: {lag.p50:,.0f} ms for half, {lag.p99:,.0f} ms for 99 %"
    if report.reconnects:
        yield count_of(report.reconnects, "reconnect")
    yield from (f"tickers changed {change}" for change in report.changes[:ROWS])
    yield from report.notices[:ROWS]
    for text, times in list(report.errors.items())[:ROWS]:
        yield f"the server said {count_of(times, 'time')}: {text}"
    for window, tickers in list(report.spilled.items())[:ROWS]:
        yield f"window {window} was rebuilt from its tape for {count_of(len(tickers), 'ticker')}"
    if report.duplicated:
        yield report.duplicated
    if failures:
        yield f"Prefect did not answer {count_of(failures, 'call')}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Numbers to the right, as far as the first row tells."""
    body = list(rows)
    first: Sequence[object] = body[0] if body else head
    rule = ["---:" if _is_number(value) else "---" for value in first]
    texts = [[_cell(value) for value in row] for row in body]
    return "\n".join(f"| {' | '.join(row)} |" for row in (list(head), rule, *texts))


def _is_number(value: object) -> bool:
    return str(value).replace(".", "", 1).isdigit()


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else escape_markdown(value)


def _time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}"
