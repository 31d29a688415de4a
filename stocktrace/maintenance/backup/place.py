"""The place of a backup: a folder of this machine, or a lake."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from stocktrace.addresses import is_lake_url, parse_lake_url
from stocktrace.errors import DiskFull, StoreError, UsageError
from stocktrace.maintenance.backup.folder_copy import FolderCopy, open_folder
from stocktrace.maintenance.backup.lake_copy import LakeCopy
from stocktrace.maintenance.backup.manifest import Copy
from stocktrace.store.lake import Lake


@contextlib.contextmanager
def open_to_write(destination: str) -> Iterator[Copy]:
    """Open a backup to make or to update it.

    Raises:
        UsageError: ``destination`` has something else.
        StoreError: another process makes a backup there, or the manifest is damaged.
        LakeError: the lake cannot be used.
    """
    if is_lake_url(destination):
        yield LakeCopy(Lake.open(parse_lake_url(destination)))
    else:
        try:
            with open_folder(Path(destination).absolute()) as copy:
                yield copy
        except DiskFull as error:
            raise StoreError(
                f"The disk of {destination} is full. Make room, then run the command again: it "
                "continues."
            ) from error


def open_to_read(source: str) -> Copy:
    """Open a complete backup; errors as in ``open_to_write``."""
    if is_lake_url(source):
        copy: Copy = LakeCopy(Lake.open(parse_lake_url(source)))
    else:
        copy = FolderCopy(Path(source).absolute(), make=False)
    if not copy.manifest.entries:
        raise UsageError(f"{source} does not have a complete backup.")
    return copy
