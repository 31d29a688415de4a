"""What is still to be sent to the lake: ``outbox/<session>/<name in the lake>``, as hard links.

A file is put here when it is published on this machine, and goes when the lake has given it back
equal. So what waits is what stands here, after a ``kill -9`` too; compacting the day meanwhile
takes nothing away from it. One process at a time puts and sends for a session: the one that
captures it, or the one that holds its lock.
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

# A small file costs the store's answer times; these wait beside each other.
_AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class SentFiles:
    """So many files, of so many bytes, are in the lake now."""

    files: int = 0
    size: int = 0


def add_to_outbox(layout: Layout, session: str, published: Path) -> None:
    """Have a file of the data folder sent; it keeps its name."""
    final = layout.outbox(session) / published.relative_to(layout.root)
    final.parent.mkdir(parents=True, exist_ok=True)
    # Without a lock: that would be one on the published file, which it is a link to.
    temporary = files.temporary_for(final)
    try:
        with files.disk_errors(final):
            try:
                os.link(published, temporary)
            except (FileNotFoundError, FileExistsError):
                raise
            except OSError:  # a file system without hard links
                shutil.copyfile(published, temporary)
        files.publish_file(temporary, final)
    finally:
        temporary.unlink(missing_ok=True)  # renamed onto another name of itself, it would stay


def pending_uploads(layout: Layout, session: str) -> list[Path]:
    """What of a session is still to be sent."""
    found = layout.outbox(session).rglob("*")
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def send_outbox(layout: Layout, session: str) -> SentFiles:
    """Send what waits; the session's report last, when all that it tells of is there.

    Raises:
        LakeError: no lake is set, or it cannot be used; what was not sent waits.
    """
    paths = pending_uploads(layout, session)
    if not paths:
        return SentFiles()
    if not layout.lake:
        raise LakeError(
            f"No lake is set, and session {session} has {count_of(len(paths), 'file')} for one: "
            "give it with --lake, or in STOCKTRACE_LAKE."
        )
    lake, root = Lake.open(layout.lake), layout.outbox(session)
    one = partial(_send_one, lake, root)
    data = [path for path in paths if path.suffix != ".json"]
    with ThreadPoolExecutor(_AT_ONCE, "stocktrace-lake") as pool:
        sizes = list(pool.map(one, data))
    sizes += [one(path) for path in paths if path.suffix == ".json"]
    _remove_empty(root)
    return SentFiles(len(sizes), sum(sizes))


def _send_one(lake: Lake, root: Path, path: Path) -> int:
    size = lake.put(path, path.relative_to(root).as_posix())
    path.unlink()
    return size


def _remove_empty(root: Path) -> None:
    """Take away the folders that are empty now."""
    for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
        with contextlib.suppress(OSError):  # something was put there meanwhile
            folder.rmdir()
    with contextlib.suppress(OSError):
        root.rmdir()
