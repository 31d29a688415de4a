"""Runs ``stocktrace`` in this process with a disk that fails and a kill at a chosen call.

The package has no hooks for it: the system calls that it makes are replaced here, before its
``main`` is called. ``tests/soak.py`` forks processes that run ``play``; everything is imported
before the fork.
"""

from __future__ import annotations

import errno
import mmap
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial, wraps
from pathlib import Path
from typing import Any

# All that a child would import by itself, so that the fork has it.
import stocktrace.live.api
import stocktrace.live.session
import stocktrace.record.feed_events
import stocktrace.record.recovery
import stocktrace.verify
from stocktrace import cli
from stocktrace.clock import Clock
from stocktrace.maintenance import compact
from stocktrace.maintenance.backup import folder_copy
from stocktrace.marks import ConnectedMark, Mark
from stocktrace.record import publish
from stocktrace.store import conversion, segments

#: What a process can be doing; the later in this list, the more specific. Each has a byte in a file
#: that the soak reads after the process was killed: the number of threads that are doing it.
PHASES = (
    "starting",
    "recording",
    "ending",
    "recovering",
    "sealing",
    "counting again",
    "rebuilding",
    "archiving",
    "converting",
    "truncating a tape",
    "compacting",
    "copying",
)
_CALLS = ("write", "fsync", "replace", "rename", "unlink", "mkdir", "link", "open")


@dataclass(frozen=True, slots=True)
class Plan:
    """The failures of the disk, by the number of the call; ``None``: no failure."""

    #: Kill at this call of one of ``kill_calls``, before or after it was made.
    kill_at: int | None = None
    kill_calls: tuple[str, ...] = ()
    kill_after: bool = False
    #: From this call on so many fail, with this error; a write may take a part before.
    fail_at: int | None = None
    fail_for: int = 1
    fail_with: int = errno.ENOSPC


@dataclass(frozen=True, slots=True)
class Job:
    """A process: its arguments and environment, the file of its output, and its plan."""

    arguments: tuple[str, ...]
    environment: dict[str, str]
    folder: Path
    output: Path
    phase: Path
    plan: Plan


@dataclass(slots=True)
class Saboteur:
    """Counts system calls and lets some of them fail, or kills."""

    plan: Plan
    phase: mmap.mmap
    killable: int = 0
    calls: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self) -> None:
        """Replace the calls of the system."""
        for name in _CALLS:
            setattr(os, name, self._sabotaged(name, getattr(os, name)))

    def _sabotaged(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def sabotaged(*arguments: Any, **options: Any) -> Any:
            kill, fail = self._turn(name, arguments)
            if kill and not self.plan.kill_after:
                os.kill(os.getpid(), signal.SIGKILL)
            if fail:
                if name == "write":
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                raise OSError(self.plan.fail_with, os.strerror(self.plan.fail_with))
            result = call(*arguments, **options)
            if kill:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return sabotaged

    def _turn(self, name: str, arguments: tuple[Any, ...]) -> tuple[bool, bool]:
        """Say whether to kill, and whether to fail, at this call."""
        plan = self.plan
        with self._lock:
            kill = fail = False
            if name in plan.kill_calls:
                self.killable += 1
                kill = self.killable == plan.kill_at
            # A call that only reads needs no space.
            if name != "open" or arguments[1] & os.O_CREAT:
                self.calls += 1
                if plan.fail_at is not None:
                    fail = plan.fail_at <= self.calls < plan.fail_at + plan.fail_for
            return kill, fail

    @contextmanager
    def at(self, phase: str) -> Iterator[None]:
        """Note that a thread is in ``phase``."""
        place = PHASES.index(phase)
        with self._lock:
            self.phase[place] += 1
        try:
            yield
        finally:
            with self._lock:
                self.phase[place] -= 1

    def watch(self, owner: Any, name: str, phase: str) -> None:
        """Note when a function is running."""
        work = getattr(owner, name)

        @wraps(work)
        def watched(*arguments: Any, **options: Any) -> Any:
            with self.at(phase):
                return work(*arguments, **options)

        setattr(owner, name, watched)

    def begin(self, phase: str) -> None:
        """Note that the process is in ``phase`` from now on."""
        self.phase[PHASES.index(phase)] = 1


def play(job: Job) -> None:
    """Be the process: never returns."""
    os.chdir(job.folder)
    os.environ.update(job.environment)
    output = os.open(job.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    with job.phase.open("r+b") as file:
        saboteur = Saboteur(job.plan, mmap.mmap(file.fileno(), len(PHASES)))
    saboteur.begin("starting")
    _watch(saboteur)
    _compact_today()
    saboteur.install()
    cli.main(list(job.arguments))


def _compact_today() -> None:
    """Let ``stocktrace compact`` merge the current date, whatever is still recorded of it."""
    tomorrow = Clock(wall=lambda: time.time_ns() + 86_400 * 10**9)
    setattr(compact, "compact_days", partial(compact.compact_days, clock=tomorrow))  # noqa: B010
    setattr(compact, "_postponed_dates", lambda *_: {})  # noqa: B010 - for mypy


def _watch(saboteur: Saboteur) -> None:
    saboteur.watch(publish, "archive_tape", "archiving")
    saboteur.watch(publish, "rebuild_window", "rebuilding")
    saboteur.watch(conversion, "convert_window", "converting")
    saboteur.watch(segments.SegmentWriter, "seal", "sealing")
    saboteur.watch(stocktrace.record.recovery, "_recover_claimed", "recovering")
    saboteur.watch(stocktrace.record.recovery, "recount_report", "counting again")
    saboteur.watch(stocktrace.record.recovery, "repair_tape", "truncating a tape")
    saboteur.watch(stocktrace.live.session.CaptureSession, "_stop", "ending")
    saboteur.watch(compact, "compact_date", "compacting")
    saboteur.watch(folder_copy.FolderCopy, "add", "copying")
    saboteur.watch(folder_copy.FolderCopy, "commit", "copying")
    record_mark = stocktrace.record.feed_events.FeedEventRecorder.on_mark

    @wraps(record_mark)
    def on_mark(recorder: Any, mark: Mark) -> None:
        record_mark(recorder, mark)
        if isinstance(mark, ConnectedMark):
            saboteur.begin("recording")

    setattr(stocktrace.record.feed_events.FeedEventRecorder, "on_mark", on_mark)  # noqa: B010 - for mypy
