"""A verification of one session: what it compares, what it has found out, and a finding."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.record.recorder import SealedWindow
from stocktrace.sessions.report import SessionReport
from stocktrace.store.layout import Layout
from stocktrace.verify.published import SessionFiles


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch: the file, the problem, and whether it was repaired."""

    session: str
    path: Path
    problem: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class SessionCheck:
    """A verification that runs; with ``repair`` the tape replaces wrong files.

    ``counted`` are the windows whose tapes are complete, by name; the tapes prove the files
    ``proven`` right. ``wrong`` says of each file with a finding whether it was repaired.
    ``fields`` are those of the report that have a finding.
    """

    layout: Layout
    session: str
    report: SessionReport | None
    files: SessionFiles
    repair: bool
    counted: dict[str, SealedWindow] = field(default_factory=dict)
    proven: set[Path] = field(default_factory=set)
    wrong: dict[Path, bool] = field(default_factory=dict)
    fields: set[str] = field(default_factory=set)

    def finding(self, path: Path, problem: str, *, repaired: bool = False) -> Finding:
        """Return a finding about a file of the session."""
        self.wrong[path] = repaired and self.wrong.get(path, True)
        return Finding(self.session, path, problem, repaired)
