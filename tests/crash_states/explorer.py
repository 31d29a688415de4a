"""Builds the states of a disk after power cuts, runs the commands in them, and has them checked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import random
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd

from stocktrace import cli
from stocktrace.maintenance.compact import compact_days
from stocktrace.store import compaction, validation
from stocktrace.store.layout import Layout
from tests.crash_states import trace
from tests.crash_states.checker import Truth, count, published, taped, trades_of
from tests.crash_states.disk import Disk, Renaming, Write
from tests.crash_states.runs import LATER, RUNS

#: Which changes are on the disk: none, all, all but one, one, the last one, the first ones, or
#: each by chance.
_NAMES = ("none", "all", "but one", "one", "newest", "oldest", "chance")
#: Of a file's bytes also: only its length; the first ones, of which the last one is cut short.
_BYTES = ("none", "all", "length", "oldest", "cut", "newest", "chance")
# How often the power is cut beside a change of names or a sync, where more can go wrong.
_TURNING_SHARE = 0.7
_TURNING = ("fsync", "rename", "unlink", "mkdir", "link", "rmdir")
# In so many states, `verify` also runs before `recover`, and all runs again afterwards.
_THOROUGH_SHARE = 0.4
# The only finding that may be left: a part of a tape that was not synced.
_UNREADABLE = re.compile(r"(\S+\.tape)(?:\.zst)?: has \d+ lines? that cannot be read")


@dataclass(slots=True)
class Choice:
    """A ``Fate`` that is chosen by ``random``, and what it chose, for a person."""

    random: random.Random
    names: str = ""
    log: list[str] = field(default_factory=list)

    def of_names(self, renamings: list[Renaming]) -> list[Renaming]:
        """See ``Fate``."""
        self.names = self.random.choice(_NAMES)
        kept = _choose(self.random, self.names, renamings)
        lost = [each for each in renamings if each not in kept]
        names = [" from ".join(name for _, name, _ in each.names) for each in lost]
        self.log += [f"names: {self.names}; lost:", *(f"  {name}" for name in names)]
        return kept

    def of_bytes(self, writes: list[Write]) -> Iterator[tuple[Write, bytes | None]]:
        """See ``Fate``."""
        how = self.random.choice(_BYTES)
        if writes:
            self.log.append(f"bytes of {len(writes)} writes: {how}")
        if how == "length":
            yield from ((each, None) for each in writes)
        elif how == "cut":
            *whole, last = _choose(self.random, "oldest", writes) or [None]
            yield from ((each, each.data) for each in whole if each)
            if last is not None:
                yield last, self._cut(last)
        elif how == "chance":
            for each in _choose(self.random, "chance", writes):
                yield each, self.random.choice((each.data, self._cut(each), None))
        else:
            yield from ((each, each.data) for each in _choose(self.random, how, writes))

    def _cut(self, write: Write) -> bytes | None:
        data = write.data
        return data and data[: self.random.randrange(len(data))]


def _choose(choice: random.Random, how: str, changes: list[Any]) -> list[Any]:
    """Those of ``changes`` that are on the disk."""
    if not changes or how == "none":
        return []
    at = choice.randrange(len(changes))
    return {
        "all": lambda: changes,
        "but one": lambda: changes[:at] + changes[at + 1 :],
        "one": lambda: changes[at : at + 1],
        "newest": lambda: changes[-1:],
        "oldest": lambda: changes[: at + 1],
        "chance": lambda: [each for each in changes if choice.random() < 0.5],
    }[how]()


@dataclass(slots=True)
class Recorded:
    """A run: its folder, what happened on the disk, and what it must lead to."""

    name: str
    root: Path
    disk: Disk
    truth: Truth
    #: The numbers of operations after which the power is cut more often.
    turning: list[int]


@dataclass(slots=True)
class Tally:
    """What was explored."""

    states: Counter[str] = field(default_factory=Counter)
    distinct: set[bytes] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)
    #: Of each failure, what was lost.
    choices: list[list[str]] = field(default_factory=list)


def record_runs(work: Path, names: Sequence[str] = tuple(RUNS)) -> None:
    """Prepare and play runs in ``work``, and keep what ``load_runs`` needs there."""
    bases = {}
    for name in names:
        sent = RUNS[name].prepare(work / name)
        bases[name] = _read_files(work / name), sent
    (work / "bases").write_bytes(pickle.dumps(bases))
    command = [sys.executable, "-m", "tests.crash_states.runs", str(work), *names]
    trace.record(command, work / "trace")


def load_runs(work: Path) -> list[Recorded]:
    """Return what ``record_runs`` left in ``work``."""
    runs = []
    for name, (base, sent) in pickle.loads((work / "bases").read_bytes()).items():
        root = work / name
        disk = Disk(root, base)
        disk.add(trace.read_calls(work / "trace", root))
        played = map(str.encode, json.loads((work / f"{name}.sent").read_text()))
        turning = [
            number
            for number, operation in enumerate(disk.operations)
            if operation.call.startswith(_TURNING)
        ]
        beside = sorted({max(0, each - near) for each in turning for near in (0, 1)})
        runs.append(Recorded(name, root, disk, Truth.of(disk, [*sent, *played]), beside))
    return runs


def _read_files(root: Path) -> dict[str, bytes | None]:
    paths = sorted(root.rglob("*"))
    return {
        str(path.relative_to(root)): None if path.is_dir() else path.read_bytes() for path in paths
    }


def _write_files(root: Path, files: Mapping[str, bytes | None]) -> None:
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    for name, content in sorted(files.items()):
        if content is None:
            (root / name).mkdir()
        else:
            (root / name).write_bytes(content)


class Explorer:
    """Explores states of recorded runs: the same ones for the same ``seed`` and recording."""

    def __init__(self, runs: Sequence[Recorded], seed: int) -> None:
        self.runs = runs
        self.seed = seed
        self.tally = Tally()

    def explore(self, number: int) -> None:
        """Explore a state, and note what is wrong with it."""
        choice = Choice(random.Random(f"{self.seed} {number}"))
        run = self.runs[number % len(self.runs)]
        at = choice.random.randrange(len(run.disk.operations))
        if choice.random.random() < _TURNING_SHARE:
            at = choice.random.choice(run.turning)
        cut = run.disk.operations[at]
        time, what = cut.time, f"{cut.call} {cut.what}"
        files = run.disk.files_after(time, choice)
        state = repr(sorted(files.items())).encode()
        self.tally.distinct.add(hashlib.blake2b(state, digest_size=16).digest())
        self.tally.states[run.name] += 1
        try:
            _write_files(run.root, files)
            _Check(run, time, files).run(thorough=choice.random.random() < _THOROUGH_SHARE)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is a failure of this state
            place = f"seed {self.seed}, state {number}: {run.name}, after operation {at} ({what})"
            problem = str(error) or repr(error)
            self.tally.failures.append(f"{place}: {type(error).__name__}: {problem}")
            self.tally.choices.append(choice.log)


@dataclass(slots=True)
class _Check:
    """One state: runs the commands as a user does, and compares."""

    run_: Recorded
    time: int
    before: Mapping[str, bytes | None]

    @property
    def data(self) -> Path:
        return self.run_.root / "data"

    def run(self, *, thorough: bool) -> None:
        """Check the state.

        Raises:
            AssertionError: Something is lost, twice, or wrong, or a command says so.
        """
        truth, disk = self.run_.truth, self.run_.disk
        promised, synced = truth.promised(disk, self.time), truth.synced(disk, self.time)
        if not self.data.exists():
            assert not synced, "The data folder is lost."
            return
        found = published(self.data)
        for window, trades in found.items():
            assert trades == _present(truth.trades[window]), f"{window} is published wrong."
        for window in promised:
            assert window in found or not truth.trades[window], f"{window} is not published."
        if thorough:
            status, _ = self.command("verify")
            lost = [
                window
                for window, lines in synced.items()
                if count(trades_of(lines)) - count(found.get(window, {}))
            ]
            assert status or not lost, f"`verify` does not see that {lost} are not published."
        lake = self.run_.root / "lake"
        goes_to_lake = ["--lake", lake.as_uri()] if "lake" in self.run_.name else []
        status, said = self.command("recover", *goes_to_lake)
        assert status == 0, f"`recover` ended with {status}: {said}"
        status, said = self.command("verify")
        findings = [line for line in said.splitlines()[:-1] if not self.is_hole(line)]
        assert not findings, f"`verify` found: {findings}"
        self.compare(synced)
        if goes_to_lake:
            assert published(lake) == published(self.data), "The lake lacks something."
        if not thorough:
            return
        _, said = self.command("recover")
        assert said == "nothing to recover\n", f"A second `recover` said: {said}"
        result = compact_days(Layout(self.data), clock=LATER)
        assert not {**result.postponed, **dict.fromkeys(result.failed)}, f"{result}"
        self.compare(synced)

    def is_hole(self, finding: str) -> bool:
        """Whether a finding is about a tape that had zeros after the power cut."""
        match = _UNREADABLE.fullmatch(finding)
        tape = os.path.relpath(match[1], self.run_.root) if match else ""
        return b"\0" in (self.before.get(tape) or b"")

    def compare(self, synced: Mapping[tuple[str, int], list[bytes]]) -> None:
        """Compare the folder after `recover` with what it must hold."""
        truth, after = self.run_.truth, taped(_read_files(self.run_.root))
        found = published(self.data)
        for window, lines in taped(self.before).items():
            if window in after:
                whole = [line for line in lines if b"\0" not in line]  # the rest is a hole
                missing = Counter(whole) - Counter(after[window])
                assert not missing, f"The tape of {window} lost {list(missing)[:3]}."
        for window, lines in after.items():
            invented = Counter(lines) - Counter(truth.windows[window])
            assert not any(map(trades_of, ([line] for line in invented))), f"{window}: {invented}"
            assert found.get(window, {}) == _present(trades_of(lines)), (
                f"{window} is not published as it is on its tape."
            )
        for window, trades in found.items():
            assert window in after or trades == _present(truth.trades[window]), f"{window} differs."
        for window, lines in synced.items():
            missing_trades = count(trades_of(lines)) - count(found.get(window, {}))
            assert not missing_trades, f"{window} lost {missing_trades}, which were synced."

    def command(self, *words: str) -> tuple[int, str]:
        """Run a command in the data folder; return its status and what it said."""
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            status = cli.run([*words, "--data-dir", str(self.data)])
        return status, output.getvalue()


def _present(trades: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Without tickers that have none."""
    return {ticker: rows for ticker, rows in trades.items() if rows}


def explore(runs: Sequence[Recorded], states: Iterable[int], seed: int) -> Tally:
    """Explore states, in turn of all runs, without waiting for the disk or for readers."""
    explorer, known = Explorer(runs, seed), dict[str, dict[int, str]]()
    find_failures = validation.find_failures

    def find_known_failures(frame: pd.DataFrame) -> dict[int, str]:
        """Validate each batch once: the same ones come in nearly all states."""
        text = frame.to_csv()
        if text not in known:
            known[text] = find_failures(frame)
        return known[text]

    with (
        mock.patch.object(os, "fsync"),
        mock.patch.object(compaction, "LISTING_S", 0.0),
        mock.patch.object(validation, "find_failures", find_known_failures),
    ):
        for number in states:
            explorer.explore(number)
    return explorer.tally
