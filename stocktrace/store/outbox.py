"""Files to be sent to the lake: ``outbox/<session>/<name in the lake>``, as hard links.

A file is linked here when it is published on this machine, and deleted when its content was read
back from the lake and is equal. So the folder lists what is left to send, also after ``kill -9``,
and compacting the day does not affect it. One process at a time adds and sends files of a session:
the one that captures it, or the one that holds its lock.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from stocktrace.errors import LakeError
from stocktrace.store import files
from stocktrace.store.lake import Lake
from stocktrace.store.layout import Layout
from stocktrace.text import count_of

# A small file costs a few round trips to the store; so many files are sent concurrently.
_MAX_UPLOADS = 8


@dataclass(frozen=True, slots=True)
class SentFiles:
    """How many files were sent to the lake, and their size in bytes."""

    files: int = 0
    size: int = 0


def add_to_outbox(layout: Layout, session: str, published: Path) -> None:
    """Add a published file, under its name in the data folder."""
    final = layout.outbox(session) / published.relative_to(layout.root)
    files.make_folder(final.parent)
    # Without a lock, which would be on the published file.
    temporary = files.temporary_for(final)
    try:
        with files.disk_errors(final):
            _link(published, temporary)
        files.publish_file(temporary, final)
    finally:
        # Renaming a hard link onto another link to the same file leaves both.
        temporary.unlink(missing_ok=True)


def _link(published: Path, target: Path) -> None:
    try:
        os.link(published, target)
    except FileExistsError:
        raise
    except OSError:
        # The file system has no hard links, or the file (a report) was replaced at this moment:
        # then Linux says that it does not exist.
        shutil.copyfile(published, target)


def pending_uploads(layout: Layout, session: str) -> list[Path]:
    """List the files of a session that are to be sent."""
    paths = layout.outbox(session).rglob("*")
    return sorted(path for path in paths if path.is_file() and not path.name.startswith("."))


def send_outbox(layout: Layout, session: str) -> SentFiles:
    """Send the files of a session; the report last, after all files that it names.

    Raises:
        LakeError: No lake is set, or it cannot be used; files that were not sent stay.
    """
    paths = pending_uploads(layout, session)
    if not paths:
        return SentFiles()
    if not layout.lake:
        raise LakeError(
            f"Session {session} has {count_of(len(paths), 'file')} to send, but no lake is set. "
            "Use --lake or STOCKTRACE_LAKE."
        )
    lake, root = Lake.open(layout.lake), layout.outbox(session)
    send = partial(_send_file, lake, root)
    data = [path for path in paths if path.suffix != ".json"]
    with ThreadPoolExecutor(_MAX_UPLOADS, "stocktrace-lake") as pool:
        sizes = list(pool.map(send, data))
    sizes += [send(path) for path in paths if path.suffix == ".json"]
    _delete_empty_folders(root)
    return SentFiles(len(sizes), sum(sizes))


def _send_file(lake: Lake, root: Path, path: Path) -> int:
    size = lake.put(path, path.relative_to(root).as_posix())
    path.unlink()
    return size


def _delete_empty_folders(root: Path) -> None:
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    for folder in sorted(folders, reverse=True):
        with contextlib.suppress(OSError):  # a file was added in the meantime
            folder.rmdir()
