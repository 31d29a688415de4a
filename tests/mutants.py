"""Plants defects, one at a time, and checks that the test of each finds it.

    python -m tests.mutants                  # all
    python -m tests.mutants --only 3 7       # some, by their numbers

Each is planted in a copy of the tree. Its test must pass without it and fail with it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
_COPIED = ("stocktrace", "tests", "pyproject.toml")
# What pytest returns if all tests passed, and if some failed; otherwise they cannot be run.
_PASSED, _FAILED = 0, 1
_TIMEOUT_S = 600


@dataclass(frozen=True, slots=True)
class Mutant:
    """A defect: ``old``, which is once in ``file`` of the package, becomes ``new``.

    ``test``, in the file ``tests``, finds it.
    """

    defect: str
    file: str
    old: str
    new: str
    tests: str
    test: str

    def plant(self, root: Path) -> None:
        """Plant the defect in the tree at ``root``."""
        path = root / "stocktrace" / self.file
        text = path.read_text(encoding="utf-8")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


MUTANTS = (
    Mutant(
        "The bytes of a tape are not synced",
        "store/tape.py",
        "            self._name_is_synced = True\n        sync(self._fd)\n",
        "            self._name_is_synced = True\n",
        "tests/store/test_tape.py",
        "test_70_the_first_sync_of_a_tape_also_syncs_its_name",
    ),
    Mutant(
        "The name of a tape is not synced",
        "store/tape.py",
        "            sync_file(self.path.parent)\n            self._name_is_synced = True\n",
        "            self._name_is_synced = True\n",
        "tests/store/test_tape.py",
        "test_70_the_first_sync_of_a_tape_also_syncs_its_name",
    ),
    Mutant(
        "The folder of a published file is not synced",
        "store/files.py",
        "        temporary.replace(final)\n    sync_file(final.parent)\n",
        "        temporary.replace(final)\n",
        "tests/store/test_conversion.py",
        "test_the_folder_is_synced_after_the_rename_and_before_the_segment_is_deleted",
    ),
    Mutant(
        "A Parquet file is not synced",
        "store/conversion.py",
        "        files.publish_file(temporary, final)\n    return rows\n",
        "        with files.disk_errors(final):\n"
        "            temporary.replace(final)\n"
        "        files.sync_file(final.parent)\n"
        "    return rows\n",
        "tests/store/test_conversion.py",
        "test_the_folder_is_synced_after_the_rename_and_before_the_segment_is_deleted",
    ),
    Mutant(
        "The report is not synced",
        "store/files.py",
        '            temporary.write_text(text, encoding="utf-8")\n'
        "        publish_file(temporary, path)\n",
        '            temporary.write_text(text, encoding="utf-8")\n'
        "        with disk_errors(path):\n"
        "            temporary.replace(path)\n"
        "        sync_file(path.parent)\n",
        "tests/store/test_files.py",
        "test_70_a_text_is_on_the_disk_before_it_has_its_name",
    ),
    Mutant(
        "The coverage is not synced",
        "store/parquet.py",
        "        files.publish_file(path, final)\n",
        "        with files.disk_errors(final):\n"
        "            path.replace(final)\n"
        "        files.sync_file(final.parent)\n",
        "tests/store/test_parquet.py",
        "test_70_a_table_is_on_the_disk_before_it_has_its_name",
    ),
    Mutant(
        "The audit log is not synced",
        "store/audit.py",
        "                sync_file(self._path)\n\n",
        "                pass\n\n",
        "tests/store/test_audit.py",
        "test_70_events_are_on_the_disk_after_a_sync_of_the_log",
    ),
    Mutant(
        "The names of new folders are not synced",
        "store/files.py",
        "        for parent in missing[1:]:\n            sync_file(parent)\n",
        "",
        "tests/store/test_files.py",
        "test_70_a_new_folder_is_synced_in_each_new_folder_above_it",
    ),
    Mutant(
        "A file is renamed before it is synced",
        "store/files.py",
        "    sync_file(temporary)\n"
        "    with disk_errors(final):\n"
        "        temporary.replace(final)\n",
        "    with disk_errors(final):\n        temporary.replace(final)\n    sync_file(final)\n",
        "tests/store/test_conversion.py",
        "test_the_folder_is_synced_after_the_rename_and_before_the_segment_is_deleted",
    ),
    Mutant(
        "A tape is archived before its window is published",
        "record/publish.py",
        "        file = conversion.convert_window(layout, window, on_progress=on_progress)\n"
        "        tape = layout.tape(window)\n",
        "        tape = layout.tape(window)\n"
        "        if tape.exists():\n"
        "            archive_tape(tape, layout.archived_tape(window))\n"
        "        file = conversion.convert_window(layout, window, on_progress=on_progress)\n",
        "tests/record/test_publish.py",
        "test_one_segment_that_cannot_be_converted_fails_the_window_and_all_stay",
    ),
    Mutant(
        "The files of a compacted date are not synced",
        "store/compaction.py",
        "            for path in written:\n"
        "                files.sync_file(path)\n"
        "            files.sync_file(staged)\n",
        "            files.sync_file(staged)\n",
        "tests/store/test_compaction.py",
        "test_70_the_files_of_a_date_are_on_the_disk_before_the_folders_are_swapped",
    ),
    Mutant(
        "A tape is deleted before its deletion is in the audit log",
        "maintenance/retention.py",
        '    audit("delete", file=str(path), size=size)\n    path.unlink()\n',
        '    path.unlink()\n    audit("delete", file=str(path), size=size)\n',
        "tests/maintenance/test_compact.py",
        "test_a_deletion_is_on_the_disk_before_the_tape_is_deleted",
    ),
    Mutant(
        "A tape is deleted before its archive has its name",
        "store/tape.py",
        "        publish_file(temporary, archived)\n    tape.unlink()\n",
        "        tape.unlink()\n        publish_file(temporary, archived)\n",
        "tests/store/test_tape.py",
        "test_an_archive_that_fails_keeps_the_tape_and_can_be_made_again",
    ),
    Mutant(
        "The old folder of a compacted date is deleted without a look for its windows",
        "store/compaction.py",
        "        _check_replaced(staged, live)\n        # The swap",
        "        # The swap",
        "tests/store/test_compaction.py",
        "test_an_old_folder_with_a_window_that_the_dataset_lacks_is_kept",
    ),
    Mutant(
        "A converted file is not compared with its segments",
        "store/conversion.py",
        "        if hash_windows([temporary]) != {window: expected}:\n",
        "        if hash_windows([temporary]).keys() != {window}:\n",
        "tests/store/test_conversion.py",
        "test_what_is_written_wrong_is_not_published",
    ),
    Mutant(
        "The copy is not compared before a tape is deleted",
        "store/tape.py",
        "                if source.read(len(chunk)) != chunk:\n",
        "                if len(source.read(len(chunk))) != len(chunk):\n",
        "tests/store/test_tape.py",
        "test_an_archive_that_differs_from_the_tape_is_not_published",
    ),
    Mutant(
        "The hashes of coverage and quarantine are not compared",
        "record/file_hashes.py",
        "        elif known != _hash(path):\n",
        "        elif not known:\n",
        "tests/verify/test_verify.py",
        "test_63_the_hashes_of_the_report_are_compared_when_the_tapes_are_gone",
    ),
    Mutant(
        "A line of the audit log is not compared with the one before",
        "store/audit.py",
        """f'"previous": "{previous}"'.encode() not in line:\n""",
        """b'"previous": "' not in line:\n""",
        "tests/store/test_audit.py",
        "test_a_line_that_is_missing_is_found",
    ),
    Mutant(
        "The rows of a window are not compared with the hash in their footer",
        "verify/published.py",
        "        return name is not None and self.listed[name] == self.held(part)\n",
        "        return name is not None and self.listed[name].rows == self.held(part).rows\n",
        "tests/verify/test_compacted.py",
        "test_a_wrong_date_is_found_and_rebuilt_from_the_tapes",
    ),
    Mutant(
        "A check of a backup does not compare the hashes",
        "maintenance/backup/run.py",
        "        return hash_chunks(self._copy.read(name, old)) != old.hash\n",
        "        return not hash_chunks(self._copy.read(name, old))\n",
        "tests/maintenance/test_backup.py",
        "test_a_check_repairs_the_backup_and_finds_what_changed_silently",
    ),
    Mutant(
        "A window is published without the lock of its session",
        "record/publish.py",
        "    with lock.publish_lock(layout, window.session):\n        file = conversion",
        "    with contextlib.nullcontext():\n        file = conversion",
        "tests/record/test_publish.py",
        "test_66_a_window_that_is_published_twice_at_once_has_each_trade_once",
    ),
    Mutant(
        "Folders are swapped while windows are published into them",
        "store/compaction.py",
        "            with lock.lock_folder(layout.dataset, exclusive=True):\n",
        "            with lock.lock_folder(layout.dataset, exclusive=False):\n",
        "tests/store/test_compaction.py",
        "test_no_window_is_being_published_while_the_folders_are_swapped",
    ),
    Mutant(
        "The last line feed of a torn tape is cut off",
        "record/tape_repair.py",
        "            return begin + newline + 1\n",
        "            return begin + newline\n",
        "tests/record/test_recovery.py",
        "test_a_tape_torn_at_any_byte_gives_every_complete_line_and_no_wrong_row",
    ),
    Mutant(
        "A frame at the very end of a window belongs to it",
        "store/names.py",
        "        return not window.start <= stamp < window.end or size >= self.max_bytes\n",
        "        return not window.start <= stamp <= window.end or size >= self.max_bytes\n",
        "tests/store/test_names.py",
        "test_a_window_ends_at_its_end_and_not_a_nanosecond_before",
    ),
    Mutant(
        "Control frames are not counted",
        "record/intake.py",
        "        books.control += decoded.control\n",
        "",
        "tests/record/test_intake.py",
        "test_control_and_nonsense_are_counted_and_kept",
    ),
    Mutant(
        "A torn end is not cut off its tape",
        "record/tape_repair.py",
        "            file.truncate(end)\n",
        "",
        "tests/record/test_recovery.py",
        "test_the_data_of_a_killed_session_is_published_each_trade_once",
    ),
    Mutant(
        "The end of a gap is a millisecond late",
        "record/coverage.py",
        "            self._end(switched, state, stamp)\n",
        "            self._end(switched, state, stamp + 1_000_000)\n",
        "tests/record/test_coverage.py",
        "test_before_the_first_connection_there_is_a_gap_that_says_so",
    ),
    Mutant(
        "Compaction sorts the rows of a ticker by time",
        "store/compaction.py",
        "    rows = np.lexsort((windows, ranks[symbols.indices.to_numpy()]))\n",
        '    times = table["ts_event"].to_numpy()\n'
        "    rows = np.lexsort((times, windows, ranks[symbols.indices.to_numpy()]))\n",
        "tests/store/test_compaction.py",
        "test_late_trades_of_a_window_stay_in_the_order_of_arrival",
    ),
    Mutant(
        "The tapes of a session are read by the times in their names",
        "store/layout.py",
        '        in_order = sorted(windows, key=attrgetter("number"))\n',
        '        in_order = sorted(windows, key=attrgetter("window"))\n',
        "tests/test_faults/test_clock.py",
        "test_61_a_clock_set_back_over_two_windows_keeps_the_order_of_arrival",
    ),
    Mutant(
        "A session that cannot be recovered is only logged",
        "record/recovery.py",
        "            failures.append(error)\n",
        "",
        "tests/record/test_recovery.py",
        "test_a_step_that_fails_can_be_done_again",
    ),
)


def run_tests(root: Path, mutants: Iterable[Mutant]) -> tuple[int, str]:
    """Run the tests of ``mutants`` in the tree at ``root``; return pytest's status and output."""
    tests = {f"{mutant.tests}::{mutant.test}": None for mutant in mutants}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *tests],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"},
        text=True,
        capture_output=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def copy_tree(root: Path) -> None:
    """Copy the package and its tests to ``root``."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, root / name, ignore=ignored)
        else:
            shutil.copy(source, root / name)


def main() -> None:
    """Run the tests without a defect, then the test of each with it; print which are found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", type=int, nargs="+", default=range(1, len(MUTANTS) + 1))
    chosen = [(number, MUTANTS[number - 1]) for number in parser.parse_args().only]
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copy_tree(Path(folder))
        status, output = run_tests(Path(folder), (mutant for _, mutant in chosen))
    if status != _PASSED:
        raise SystemExit(f"{output}\nA test that fails without a defect proves nothing.")
    missed = 0
    for number, mutant in chosen:
        with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
            copy_tree(Path(folder))
            mutant.plant(Path(folder))
            status, output = run_tests(Path(folder), [mutant])
        if status not in (_PASSED, _FAILED):
            raise SystemExit(f"{output}\nThe test of defect {number} cannot be run.")
        missed += status == _PASSED
        verdict = "found" if status == _FAILED else "MISSED"
        print(f"{number:2} {verdict}: {mutant.defect}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} defects are found.")
    if missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
