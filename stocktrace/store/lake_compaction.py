"""Merge the files of a date in a lake, so that our readers see each row once at any moment.

A store cannot swap folders: its files appear and disappear one by one. So names and footers decide
what a reader takes (``Lake.date_files``):

1. The files of the date are fetched, merged and compared on this machine, as in a data folder.
2. ``day-<n>-002.parquet`` … are sent first, ``day-<n>.parquet`` last. Until then readers skip them;
   from then on they skip the files of the windows in its footer, and those of a lower ``n``.
3. The skipped files are deleted. A reader that had listed them lists the date again.

The coverage of a date is merged into one file (``merge_lake_coverage``).

A killed run leaves files that readers skip; the next run deletes them. One process at a time
compacts a lake (``hold_lease``): stores have no locks.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import ConversionError, LakeError
from stocktrace.store.compaction import CompactedDate, windows_of, write_day_files
from stocktrace.store.coverage import read_coverage_files
from stocktrace.store.footer import Windows, read_windows
from stocktrace.store.lake import Lake
from stocktrace.store.names import WindowId, day_file_name, day_number, is_day_file
from stocktrace.store.parquet import SourceFile, publish_table
from stocktrace.units import NS_PER_SECOND

#: A lease that was not renewed for so long belonged to a process that was killed.
LEASE_S = 3600.0
_LEASES = "compacting"


@dataclass(slots=True)
class Lease:
    """The right to compact a lake: the only file in ``compacting/`` that is not too old."""

    lake: Lake
    clock: Clock = SYSTEM_CLOCK
    key: str = field(default_factory=lambda: f"{_LEASES}/{secrets.token_hex(8)}.json")
    _deadline: Deadline = field(init=False)

    def renew(self) -> None:
        """Take the lease, or take it again for ``LEASE_S``.

        Raises:
            LakeError: Another process has it.
        """
        # Of two processes, at least the later one lists the other's file, and stops.
        holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
        self._deadline = Deadline.at(
            self.clock.wall() + int(LEASE_S / 2 * NS_PER_SECOND), self.clock
        )
        self.lake.put_bytes(holder.encode(), self.key)
        infos = {info.base_name: info for info in self.lake.list_files(_LEASES, hidden=True)}
        # Both times come from the store's clock.
        own = infos.pop(Path(self.key).name).mtime
        for info in infos.values():
            expiry = info.mtime + timedelta(seconds=LEASE_S)
            if own < expiry:
                raise LakeError(
                    f"Another process compacts the lake {self.lake.url}. Try again later; if it "
                    f"was killed, after {expiry:%Y-%m-%d %H:%M} UTC."
                )
            self.lake.delete(info.path)

    def check(self) -> None:
        """Raise ``LakeError`` if others may take the lease soon, because this process was slow."""
        if self._deadline.passed():
            raise LakeError(
                f"The lake {self.lake.url} is too slow, or this machine was suspended: compact it "
                "again."
            )


@contextlib.contextmanager
def hold_lease(lake: Lake, clock: Clock = SYSTEM_CLOCK) -> Iterator[Lease]:
    """Keep other processes from compacting a lake; ``LakeError`` if one does."""
    lease = Lease(lake, clock)
    try:
        lease.renew()
        yield lease
    finally:
        with contextlib.suppress(LakeError):  # it expires
            lake.delete(f"{lake.root}/{lease.key}")


@dataclass(frozen=True, slots=True)
class MergedDate:
    """A date in a lake after a merge: what was ``done``, if anything, and what is to be deleted."""

    done: CompactedDate | None
    replaced: list[SourceFile]


def merge_lake_date(lease: Lease, date: str, folder: Path) -> MergedDate:
    """Merge the files of a UTC date, in an empty ``folder`` of this machine.

    Raises:
        ConversionError: A file is damaged, or one that is to be deleted has other rows.
        LakeError: The lake cannot be used.
    """
    lake = lease.lake
    lease.renew()
    found = lake.date_files(date)
    if found.windows:
        sources = [folder / Path(file.path).name for file in found.current]
        for file, source in zip(found.current, sources, strict=True):
            lake.fetch(file, source)
        windows = windows_of(sources)
        _check_replaced(lake, found.replaced, windows)
        (folder / "merged").mkdir()
        written = write_day_files(sources, windows, folder / "merged", found.number + 1)
        lease.check()
        for path in reversed(written):
            lake.put(path, f"parquet/date={date}/{path.name}")
        done = CompactedDate(
            date,
            tuple(Path(f"{lake.root}/parquet/date={date}/{path.name}") for path in written),
            len(sources),
            sum(content.rows for content in windows.values()),
            sum(source.stat().st_size for source in sources),
            sum(path.stat().st_size for path in written),
        )
        return MergedDate(done, [*found.current, *found.replaced])
    if found.replaced and found.current:
        day = found.current[0]
        _check_replaced(lake, found.replaced, read_windows(day.path, lake.files, day.size))
    return MergedDate(None, found.replaced)


def delete_replaced(lease: Lease, merged: MergedDate) -> None:
    """Delete the files that readers skip."""
    for file in merged.replaced:
        lease.check()
        lease.lake.delete(file.path)


def merge_lake_coverage(lease: Lease, date: str, folder: Path) -> None:
    """Merge the coverage of a date into ``coverage/date=…/day-<n>.parquet``, and delete the rest.

    Readers prefer the file of a session; if it is replaced in the meantime, it stays.

    Raises:
        ConversionError: A file is damaged.
        LakeError: The lake cannot be used.
    """
    lake, place = lease.lake, f"coverage/date={date}"
    lease.renew()
    before = {info.path: (info.size, info.mtime) for info in lake.list_files(place)}
    numbers = [day_number(path) for path in map(Path, before) if is_day_file(path)]
    tables = read_coverage_files(lake.coverage_files([date]), lake.files)
    name = day_file_name(max(numbers, default=0) + 1)
    publish_table(pa.concat_tables(tables), folder / name, store_schema=False)
    lease.check()
    lake.put(folder / name, f"{place}/{name}")
    for info in lake.list_files(place):
        if before.get(info.path) == (info.size, info.mtime):
            lease.check()
            lake.delete(info.path)


def _check_replaced(lake: Lake, replaced: list[SourceFile], windows: Windows) -> None:
    """Compare the files of windows, sent again or left by a killed run, with the merged ones."""
    for file in replaced:
        path = Path(file.path)
        if path.suffix == ".tmp" or is_day_file(path):
            continue
        content = read_windows(file.path, lake.files, file.size).get(WindowId.parse(path))
        if content != windows[WindowId.parse(path)]:
            raise ConversionError(
                f"{path} and the compacted file of its date in {lake.url} have different rows: "
                "delete the wrong one."
            )
