"""Writes the report of a running session, without writing again what grows with its windows.

Windows, gaps and notices are appended to ``sessions/<session>.jsonl``, each once. The report, which
is replaced after that, says how many bytes of it count: a kill in between leaves the report before.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from stocktrace.sessions.report import GapReport, ReportLine, SessionReport, lines_path
from stocktrace.store import files

_T = TypeVar("_T")


class RunningReport:
    """The report in ``path`` while its session runs."""

    def __init__(self, path: Path) -> None:
        self._path, self._lines = path, lines_path(path)
        self._size = self._windows = self._spilled = self._notices = 0

    def write(self, report: SessionReport, gaps: Sequence[GapReport]) -> None:
        """Write what is new in ``report``; the new ``gaps`` are given."""
        line = ReportLine(
            _newest(report.windows, len(report.windows) - self._windows),
            _newest(report.spilled, len(report.spilled) - self._spilled),
            report.notices[self._notices :],
            list(gaps),
        )
        if text := line.encode():
            self._append(text)
            self._windows, self._spilled = len(report.windows), len(report.spilled)
            self._notices = len(report.notices)
        report.write_head(self._path, self._size)

    def _append(self, line: bytes) -> None:
        with files.disk_errors(self._lines):
            files.make_folder(self._lines.parent)
            descriptor = os.open(self._lines, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.ftruncate(descriptor, self._size)  # a part of a line, after a full disk
                os.lseek(descriptor, 0, os.SEEK_END)
                files.write_all(descriptor, line)
                files.sync(descriptor)
            finally:
                os.close(descriptor)
        if not self._size:  # the name is on the disk before a report that needs it
            files.sync_file(self._lines.parent)
        self._size += len(line)


def _newest(entries: dict[str, _T], count: int) -> dict[str, _T]:
    """Return the last ``count`` of ``entries``, in their order."""
    names = list(islice(reversed(entries), count))
    return {name: entries[name] for name in reversed(names)}
