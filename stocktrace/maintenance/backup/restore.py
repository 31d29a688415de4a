"""Restore a data folder from its backup: into an empty folder, or what is missing in the same one.

No file is replaced. Files that the folder has under another name now (a window whose date was
compacted, a tape that was archived, a published segment) are left out. The audit log is restored
first, because it identifies the folder; reports and tapes are last, because a recovery looks for
them. If the command is killed, running it again restores the rest.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from stocktrace.errors import TapeError, UsageError
from stocktrace.maintenance.backup.data_files import (
    AUDIT_LOG,
    FOLDERS,
    FileState,
    SourceChanged,
    UnreadableFile,
    is_growing,
    is_plain_tape,
    is_report_lines,
    open_listed,
)
from stocktrace.maintenance.backup.manifest import Copy, Entry
from stocktrace.maintenance.backup.place import open_to_read
from stocktrace.maintenance.backup.shortage import (
    begins_with,
    has_whole_report,
    is_rotated,
    windows_of,
)
from stocktrace.record.recovery import sweep_temporaries
from stocktrace.sessions.catalog import is_in_use
from stocktrace.store import files
from stocktrace.store.audit import first_hash
from stocktrace.store.dataset import files_in_order, find_published
from stocktrace.store.files import OnProgress
from stocktrace.store.layout import Layout
from stocktrace.store.lock import compaction_lock
from stocktrace.store.names import WindowId, is_session
from stocktrace.store.tape import hash_tape

_LAST = ("sessions", "tape")
_ORDER = ("log", *(name for name in FOLDERS if name not in ("log", *_LAST)), *_LAST)


@dataclass(slots=True)
class RestoreResult:
    """The files of the backup: restored, present already, and left out as they have others now.

    ``problems`` are those that differ from the files present, or are damaged in the backup.
    """

    restored: int = 0
    size: int = 0
    present: int = 0
    left_out: int = 0
    problems: list[str] = field(default_factory=list)


def restore(
    layout: Layout, source: str, *, on_progress: OnProgress = lambda *_: None
) -> RestoreResult:
    """Restore the files of a backup, in a folder or a lake (a URL), that the data folder lacks.

    Raises:
        UsageError: ``source`` is not a backup, or ``layout`` another folder or one in use.
        StoreError: a file cannot be written.
    """
    copy = open_to_read(source)
    _check_target(layout, copy, source)
    layout.root.mkdir(parents=True, exist_ok=True)
    with compaction_lock(layout):
        sweep_temporaries(layout)  # of a restore that was killed
        run = _Restore(layout, copy)
        names = sorted(copy.manifest.entries, key=lambda name: _ORDER.index(name.split("/")[0]))
        for done, name in enumerate(names, 1):
            run.restore_file(name, copy.manifest.entries[name])
            on_progress(done, len(names))
    return run.result


def _check_target(layout: Layout, copy: Copy, source: str) -> None:
    root = layout.root
    locks = [path.stem for path in layout.sessions.glob("*.lock") if is_session(path.stem)]
    if running := sorted(name for name in locks if is_in_use(layout, name)):
        raise UsageError(
            f"Session {running[0]} is running in {root}. Stop it, or restore into another folder."
        )
    folder = first_hash(layout.audit)
    present = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".lock")
    has_files = any(not path.name.startswith(".") for path in present)
    if has_files and folder != copy.manifest.folder:
        raise UsageError(
            f"{root} has other data than the backup in {source}. Restore into an empty folder."
        )


class _Restore:
    """One run."""

    def __init__(self, layout: Layout, copy: Copy) -> None:
        self.result = RestoreResult()
        self._layout = layout
        self._copy = copy
        # The sessions that were here before: nothing is to be sent for them again.
        self._known = set(layout.all_sessions())
        #: The windows of a date that are in files that the backup does not have.
        self._others: dict[Path, set[WindowId]] = {}

    def restore_file(self, name: str, entry: Entry) -> None:
        """Restore a file, unless the folder has it."""
        result, final = self.result, self._layout.root / name
        if final.exists():
            if self._is_present(final, name, entry):
                result.present += 1
            else:
                result.problems.append(f"{final} differs from the backup: it was kept.")
        elif not self._copy.holds(name, entry):
            result.problems.append(f"{name} is missing or damaged in the backup: not restored.")
        elif self._is_elsewhere(name, entry):
            result.left_out += 1
        else:
            self._write(name, entry, final)

    def _is_present(self, final: Path, name: str, entry: Entry) -> bool:
        """Return whether a file has all that the backup has of it."""
        if name == AUDIT_LOG and is_rotated(self._layout, entry):
            return True
        try:
            with open_listed(self._layout.root, name, FileState.of(final.stat())) as file:
                is_long = file.length == entry.length or is_growing(name)
                return is_long and begins_with(file, entry)
        except (SourceChanged, UnreadableFile):
            return False

    def _is_elsewhere(self, name: str, entry: Entry) -> bool:
        layout, path = self._layout, self._layout.root / name
        if name.startswith("parquet/"):
            return self._is_published(name, entry)
        if name.startswith("csv/"):
            return find_published(layout, WindowId.parse(path)) is not None
        if name.startswith("outbox/"):
            return Path(name).parts[1] in self._known
        if name == AUDIT_LOG:
            return is_rotated(layout, entry)
        if is_report_lines(name):
            return path.stem in self._known and has_whole_report(layout.root, name)
        return is_plain_tape(name) and _is_archived(path, entry)

    def _is_published(self, name: str, entry: Entry) -> bool:
        """Return whether windows of a published file are in files that are not in the backup."""
        folder = (self._layout.root / name).parent
        if folder not in self._others:
            prefix = Path(name).parent.as_posix()
            self._others[folder] = {
                window
                for path in files_in_order(folder)
                if f"{prefix}/{path.name}" not in self._copy.manifest.entries
                for window in windows_of(path)
            }
        others = self._others[folder]
        if not others:
            return False
        with self._copy.local(name, entry) as copied:
            windows = windows_of(copied)
        if windows & others and not windows <= others:
            self.result.problems.append(
                f"{folder} has some windows of {name} in the backup, but not all: move the folder "
                "away and restore again."
            )
        return not windows.isdisjoint(others)

    def _write(self, name: str, entry: Entry, final: Path) -> None:
        """Write a file under a temporary name, compare its hash, and rename it."""
        layout, digest = self._layout, hashlib.sha256()
        layout.converting.mkdir(exist_ok=True)
        with files.locked_temporary(layout.converting / final.name) as temporary:
            with files.disk_errors(final), temporary.open("wb") as sink:
                for chunk in self._copy.read(name, entry):
                    digest.update(chunk)
                    sink.write(chunk)
            if digest.hexdigest() != entry.hash:
                self.result.problems.append(f"{name} is damaged in the backup: not restored.")
                return
            files.make_folder(final.parent)
            files.publish_file(temporary, final)
        self.result.restored += 1
        self.result.size += entry.length


def _is_archived(tape: Path, entry: Entry) -> bool:
    archived = tape.with_name(f"{tape.name}.zst")
    with contextlib.suppress(TapeError, FileNotFoundError):
        return hash_tape(archived, entry.length) == (entry.length, entry.hash)
    return False
