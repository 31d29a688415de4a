"""``stocktrace backup`` and ``restore``."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stocktrace.cli import output
from stocktrace.cli.parameters import DataDir, Json, open_layout
from stocktrace.settings import Settings
from stocktrace.text import count_of

if TYPE_CHECKING:
    from stocktrace.store.files import OnProgress

_SHOW_EVERY_S = 0.2


def backup(
    destination: str,
    *,
    delete: bool = False,
    check: bool = False,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> int:
    """Copy the data folder to DESTINATION, a folder or a lake, also while captures run.

    Only what has changed is copied, and compared by hash. Exits 1 if a file could not be copied, or
    if it has less than the one in the backup, which is kept then.

    $ stocktrace backup /mnt/backup
    $ stocktrace backup s3://bucket/backup --check

    Args:
        destination: An empty folder, the folder of an earlier backup, or s3://bucket/prefix.
        delete: Delete files from the backup that were deleted from the data folder.
        check: Read all files at both ends, and repair the backup.
    """
    layout = open_layout(data_dir)

    from stocktrace.maintenance.backup.run import back_up

    with _progress("backup") as show:
        done = back_up(layout, destination, delete=delete, check=check, on_progress=show)
    if as_json:
        output.print_json(done)
    else:
        print(f"{count_of(done.copied, 'file')} of {done.size:,} bytes copied")
        print(
            f"{done.unchanged:,} unchanged, {done.kept:,} kept that are missing in the data "
            f"folder, {done.deleted:,} replaced or deleted"
        )
        for name in done.repaired:
            output.print_line(f"{name} was damaged in the backup (repaired)")
    output.print_error(*done.problems)
    return 1 if done.problems else 0


def restore(source: str, *, data_dir: DataDir = None, as_json: Json = False) -> int:
    """Restore a backup into an empty data folder, or what is missing in the same one.

    No file is replaced. A folder with a running capture, or with other data, is refused. If the
    command is interrupted, run it again. Exits 1 if a file differs or is damaged in the backup.

    $ stocktrace restore /mnt/backup --data-dir data
    $ stocktrace restore s3://bucket/backup --data-dir /srv/trades

    Args:
        source: The folder or the lake of `stocktrace backup`.
    """
    from stocktrace.maintenance.backup.restore import restore as restore_files
    from stocktrace.store.layout import Layout

    layout = Layout.from_settings(Settings.load(data_dir=data_dir))
    with _progress("restore") as show:
        done = restore_files(layout, source, on_progress=show)
    if as_json:
        output.print_json(done)
    else:
        print(f"{count_of(done.restored, 'file')} of {done.size:,} bytes restored")
        print(f"{done.present:,} present, {done.left_out:,} left out: their data is in other files")
    output.print_error(*done.problems)
    return 1 if done.problems else 0


@contextlib.contextmanager
def _progress(what: str) -> Iterator[OnProgress]:
    """Show how many files are done, in one line of a terminal, which is removed at the end."""
    is_terminal, last = sys.stderr.isatty(), 0.0

    def show(done: int, total: int) -> None:
        nonlocal last
        if is_terminal and (done == total or time.monotonic() - last > _SHOW_EVERY_S):
            last = time.monotonic()
            print(f"\r{what}: {done:,} of {count_of(total, 'file')}", end="", file=sys.stderr)

    try:
        yield show
    finally:
        if last:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
