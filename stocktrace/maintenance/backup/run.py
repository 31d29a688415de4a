"""A run of the backup: a consistent copy of a data folder, also while it is written to.

1. List the folder, in the order in which rows move through it (``data_files``).
2. Copy each file that is new or has changed since the last backup.
3. If a file was moved or replaced before it was copied, list the folder again; what has been copied
   stays. Each round has less to copy, so the last one is a copy of one listing.
4. Replace the last backup in one step (``folder_copy``, ``lake_copy``).

A file that is missing at the source stays in the backup, unless its rows are in other files now: a
window's file whose date was compacted, a tape that was archived. A file that has changed is not
replaced by one that has less or is damaged. No lock is taken: captures are not held up.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.addresses import is_lake_url
from stocktrace.errors import StoreError, TapeError, UsageError
from stocktrace.maintenance.backup.data_files import (
    FileState,
    OpenedFile,
    SourceChanged,
    UnreadableFile,
    hash_chunks,
    is_plain_tape,
    is_report_lines,
    list_files,
    open_listed,
)
from stocktrace.maintenance.backup.manifest import Copy, Entry, Manifest
from stocktrace.maintenance.backup.place import open_to_write
from stocktrace.maintenance.backup.shortage import find_shortage, has_whole_report, windows_of
from stocktrace.sessions.catalog import is_in_use
from stocktrace.store.audit import first_hash
from stocktrace.store.files import OnProgress
from stocktrace.store.layout import Layout
from stocktrace.store.tape import hash_tape

# A round takes as long as what it copies, so a few are enough unless windows last a second.
_ROUNDS = 100
# These are moved or replaced soonest.
_FIRST = ("csv/", "outbox/", "sessions/", "quarantine/")


@dataclass(slots=True)
class BackupResult:
    """The files of a backup, by what happened to them; ``size`` are the bytes that were copied.

    ``kept`` are missing at the source, ``deleted`` are not in the backup any more, ``repaired``
    were damaged in it. ``problems`` are the files that are not in it as they are at the source.
    """

    copied: int = 0
    size: int = 0
    unchanged: int = 0
    kept: int = 0
    deleted: int = 0
    repaired: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def back_up(
    layout: Layout,
    destination: str,
    *,
    delete: bool = False,
    check: bool = False,
    on_progress: OnProgress = lambda *_: None,
) -> BackupResult:
    """Make or update the backup of a data folder in a folder, or in a lake (a URL).

    ``delete`` deletes files from the backup that are missing at the source. ``check`` reads all
    files at both ends, and copies those again that are damaged in the backup.

    Raises:
        UsageError: ``layout`` is not a data folder, or ``destination`` not a place for its backup.
        StoreError: another process makes a backup there, or it cannot be written.
        LakeError: the lake cannot be used.
    """
    _check_places(layout.root, destination)
    with open_to_write(destination) as copy:
        folder = first_hash(layout.audit)
        if copy.manifest.folder and not folder:
            raise UsageError(f"The audit log of {layout.root} is missing: restore it first.")
        if copy.manifest.folder not in ("", folder):
            raise UsageError(f"{destination} has a backup of another data folder.")
        run = _Run(layout, copy, delete=delete, check=check, on_progress=on_progress)
        entries = run.copy_listing()
        copy.commit(Manifest(folder or first_hash(layout.audit), entries), sweep=delete)
        return run.result


def _check_places(root: Path, destination: str) -> None:
    if not any((root / name).is_dir() for name in ("sessions", "tape", "parquet")):
        raise UsageError(f"{root} is not a data folder. Name another one with --data-dir.")
    if not is_lake_url(destination):
        source, target = root.resolve(), Path(destination).resolve()
        if source in (target, *target.parents) or target in source.parents:
            raise UsageError(
                f"One of {destination} and the data folder {root} is inside the other. "
                "Name a folder elsewhere."
            )


class _Run:
    """One run: the files that were copied so far, in all rounds."""

    def __init__(
        self, layout: Layout, copy: Copy, *, delete: bool, check: bool, on_progress: OnProgress
    ) -> None:
        self.result = BackupResult()
        self._layout = layout
        self._copy = copy
        self._previous = copy.manifest.entries
        self._delete = delete
        self._check = check
        self._on_progress = on_progress
        self._entries: dict[str, Entry] = {**copy.copied()}
        self._checked: set[str] = set()
        self._problems: dict[str, str] = {}

    def copy_listing(self) -> dict[str, Entry]:
        """Copy until all files of one listing are copied; return the entries of the backup.

        Raises:
            StoreError: the files change faster than they can be copied.
        """
        for _ in range(_ROUNDS):
            listed = list_files(self._layout)
            self._problems.clear()
            with contextlib.suppress(SourceChanged):
                self._copy_files(listed)
                self._check_reports(listed)
                entries = {name: self._entries[name] for name in listed if name in self._entries}
                missing = {} if self._delete else self._missing_entries(entries)
                self._count(entries, missing)
                return entries | missing
        raise StoreError(
            f"The files in {self._layout.root} change faster than they can be copied. "
            "Try again when fewer windows end."
        )

    def _count(self, entries: Mapping[str, Entry], missing: Mapping[str, Entry]) -> None:
        result, previous = self.result, self._previous
        copied = [
            entry
            for name, entry in entries.items()
            if name not in previous or previous[name].hash != entry.hash
        ]
        result.copied, result.size = len(copied), sum(entry.length for entry in copied)
        result.unchanged, result.kept = len(entries) - len(copied), len(missing)
        result.deleted = len(previous.keys() - entries.keys() - missing.keys())
        result.repaired.sort()
        result.problems = [self._problems[name] for name in sorted(self._problems)]

    # --- the files of a listing ----------------------------------------------------------------

    def _copy_files(self, listed: Mapping[str, FileState]) -> None:
        """Copy the files that have changed.

        Raises:
            SourceChanged: some were moved; all others are copied.
        """
        changed = [name for name, state in listed.items() if not self._is_copied(name, state)]
        changed.sort(key=lambda name: not name.startswith(_FIRST))

        def copy(name: str) -> bool:
            return self._try_file(name, listed[name])

        is_complete = True
        with contextlib.ExitStack() as stack:
            results: Iterable[bool] = map(copy, changed)
            if self._copy.workers > 1:
                pool = ThreadPoolExecutor(self._copy.workers, "stocktrace-backup")
                results = stack.enter_context(pool).map(copy, changed)
            for done, is_copied in enumerate(results, 1):
                is_complete = is_complete and is_copied
                self._on_progress(done, len(changed))
        if not is_complete:
            raise SourceChanged

    def _is_copied(self, name: str, state: FileState) -> bool:
        """Return whether the backup has a file, so that it need not be opened."""
        known = self._entries.get(name) or self._previous.get(name)
        if known is None or known.state != state or not self._copy.holds(name, known):
            return False
        if self._check and name in self._previous and name not in self._checked:
            return False
        self._entries[name] = known
        return True

    def _try_file(self, name: str, state: FileState) -> bool:
        """Copy a file; return ``False`` if it was moved."""
        old = self._previous.get(name)
        if old is not None and not self._copy.holds(name, old):
            old = None
        try:
            with open_listed(self._layout.root, name, state) as file:
                if old is None:
                    self._entries[name] = self._copy.add(name, file)
                else:
                    self._entries[name] = self._update(name, file, old)
        except (SourceChanged, FileNotFoundError):
            return False
        except UnreadableFile as error:
            self._add_problem(name, f"cannot be read: {error}")
            if old is not None:
                self._entries[name] = old
        self._checked.add(name)
        return True

    def _update(self, name: str, file: OpenedFile, old: Entry) -> Entry:
        """Return the new entry of a file that the backup has: it is kept, or copied again."""
        is_same = (file.length, file.hash()) == (old.length, old.hash)
        is_damaged = self._check and self._is_damaged(name, old)
        if is_same and not is_damaged:
            return old._replace(state=file.state)
        problem = ""
        if not is_same and file.state == old.state:
            problem = "has changed without a new time of change"
        elif not is_same and not is_damaged and not name.startswith("csv/"):
            problem = find_shortage(self._layout, self._copy, name, file, old)
        if problem:
            fate = "is damaged, too" if is_damaged else "was kept"
            self._add_problem(name, f"{problem}: the one in the backup {fate}")
            return old
        if is_damaged:
            self.result.repaired.append(name)
        return self._copy.add(name, file)

    def _is_damaged(self, name: str, old: Entry) -> bool:
        return hash_chunks(self._copy.read(name, old)) != old.hash

    def _add_problem(self, name: str, problem: str) -> None:
        self._problems[name] = f"{self._layout.root / name} {problem}."

    def _check_reports(self, listed: Mapping[str, FileState]) -> None:
        """Check that no ended session was changed while its files were copied.

        A report that a process is about to write does not matter: in the backup, its session is
        still to be recovered.

        Raises:
            SourceChanged: one was.
        """
        for name, state in listed.items():
            if name.startswith("sessions/"):
                path = self._layout.root / name
                with _moved_files():
                    is_changed = FileState.of(path.stat()) != state
                if is_changed and not is_in_use(self._layout, path.stem):
                    raise SourceChanged

    # --- the files that are missing at the source ----------------------------------------------

    def _missing_entries(self, entries: dict[str, Entry]) -> dict[str, Entry]:
        """Return the files of the last backup whose data is not in the files of the source.

        Raises:
            SourceChanged: a file at the source was moved.
        """
        missing: list[str] = []
        dates: dict[str, list[str]] = {}
        for name, old in self._previous.items():
            if name not in entries:
                if name.startswith("parquet/"):
                    dates.setdefault(Path(name).parent.as_posix(), []).append(name)
                elif not self._is_elsewhere(name, old, entries):
                    missing.append(name)
        for folder, names in dates.items():
            missing += self._missing_of_date(folder, names, entries)
        kept = {}
        for name in missing:
            old = self._previous[name]
            if self._copy.holds(name, old) and not (self._check and self._is_damaged(name, old)):
                kept[name] = old
            else:
                problem = "is missing, and the one in the backup is missing or damaged"
                self._add_problem(name, problem)
        return kept

    def _is_elsewhere(self, name: str, old: Entry, entries: Mapping[str, Entry]) -> bool:
        """Return whether the data of a missing file is in another one, or on the tape."""
        if name.startswith(("csv/", "outbox/")):
            return True
        if is_report_lines(name):
            return has_whole_report(self._layout.root, name)
        archived = f"{name}.zst"
        if not is_plain_tape(name) or archived not in entries:
            return False
        with contextlib.suppress(TapeError), _moved_files():
            if hash_tape(self._layout.root / archived, old.length) == (old.length, old.hash):
                return True
        self._add_problem(archived, "lacks frames of the plain tape, which the backup keeps")
        return False

    def _missing_of_date(
        self, folder: str, missing: list[str], entries: dict[str, Entry]
    ) -> list[str]:
        """Return the files of a date to keep: no window is lost, and none is in two files.

        If that is impossible, the backup keeps the date as it is, without the files of the source.
        """
        here = [name for name in entries if Path(name).parent.as_posix() == folder]
        with _moved_files():
            published = {window for name in here for window in windows_of(self._layout.root / name)}
        kept = []
        for name in missing:
            with self._copy.local(name, self._previous[name]) as copied:
                windows = windows_of(copied)
            if windows.isdisjoint(published):
                kept.append(name)
            elif not windows <= published:
                self._add_problem(folder, "lacks windows that the backup has: it keeps this date")
                for other in here:
                    del entries[other]
                return [name for name in self._previous if name.startswith(f"{folder}/")]
        return kept


@contextlib.contextmanager
def _moved_files() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise SourceChanged from None
