"""Appends to thousands of files by turns, and keeps as many of them open as the process may.

Opening and closing a file costs about as much as writing to it. Descriptors below 1024 are
left to the rest of the process: it needs a few, and ``select`` cannot wait for higher ones.
"""

from __future__ import annotations

import fcntl
import os
import resource
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from stocktrace.store import files

_FIRST_DESCRIPTOR = 1024
# Enough for any watch-list. Where the hard limit is "unlimited", the table of files would be huge.
_MAX_DESCRIPTORS = 1 << 16


@cache
def _free_descriptors() -> threading.Semaphore:
    """Raise the process's limit of open files; return how many may be kept open, for all writers.

    The soft limit is 1024 on most systems, for the sake of programs that use ``select``. It stays
    raised: another capture of the process may still depend on it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limits = [_MAX_DESCRIPTORS if each == resource.RLIM_INFINITY else each for each in (soft, hard)]
    limit = max(limits[0], min(limits[1], _MAX_DESCRIPTORS))
    if limit > limits[0]:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        except (OSError, ValueError):  # macOS has another maximum, which it does not say
            limit = limits[0]
    return threading.Semaphore(max(0, limit - _FIRST_DESCRIPTOR))


@dataclass(slots=True)
class Appender:
    """Files that one thread creates and appends to; ``close`` them at the end."""

    _descriptors: dict[str, int] = field(default_factory=dict)

    def create(self, path: str, data: bytes) -> None:
        """Create a file with its first data; ``FileExistsError`` if it exists."""
        try:
            descriptor = os.open(path, files.APPEND | os.O_EXCL, 0o666)
            try:
                files.write_all(descriptor, data)
                self._keep(path, descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            files.raise_disk_error(Path(path), error)

    def append(self, path: str, data: memoryview) -> None:
        """Append to a file that was created."""
        descriptor = self._descriptors.get(path)
        if descriptor is None:
            files.append(path, data)
            return
        try:
            files.write_all(descriptor, data)
        except OSError as error:
            files.raise_disk_error(Path(path), error)

    def close(self) -> None:
        """Close all files."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])
            _free_descriptors().release()

    def _keep(self, path: str, descriptor: int) -> None:
        """Keep a file open under another descriptor, if one is free."""
        if not _free_descriptors().acquire(blocking=False):
            return
        try:
            kept = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST_DESCRIPTOR)
        except OSError:  # the rest of the process has taken them
            _free_descriptors().release()
        else:
            self._descriptors[path] = kept
