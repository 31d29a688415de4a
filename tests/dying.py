"""Processes that are killed in the middle of something."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pytest

_CALLS = (
    "write",
    "fsync",
    "replace",
    "rename",
    "unlink",
    "mkdir",
    "ftruncate",
    "rmdir",
    "link",
    "symlink",
)


class Killed(BaseException):
    """The process is gone."""


class Killer:
    """Kills this process, so to speak: after ``left`` system calls no other one happens."""

    def __init__(self, patch: pytest.MonkeyPatch, left: int) -> None:
        self.left = left
        for name in _CALLS:
            patch.setattr(os, name, self._killing(getattr(os, name)))

    def _killing(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def killing(*arguments: Any, **options: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return call(*arguments, **options)

        return killing


def calls_of(work: Callable[[], object]) -> range:
    """Numbers the system calls that ``work`` makes when nobody kills it."""
    with pytest.MonkeyPatch.context() as patch:
        killer = Killer(patch, many := 10**6)
        work()
    return range(many - killer.left)


# One interpreter imports what takes a second; each program is run by a fork of it.
_SERVING = """
import json, os, sys, traceback
import stocktrace.importing.jobs
for line in sys.stdin:
    program, *words = json.loads(line)
    child = os.fork()
    if not child:
        sys.argv[1:] = words
        try:
            exec(program, {})
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Run(Protocol):
    """Runs a program with arguments in a process of its own; gives its exit status."""

    def __call__(self, program: str, *words: object) -> int: ...


@contextmanager
def dying() -> Iterator[Run]:
    """For programs that kill themselves: -9 says that one did."""
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", _SERVING]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as serving:
        assert serving.stdin is not None
        assert serving.stdout is not None
        asked, told = serving.stdin, serving.stdout

        def run(program: str, *words: object) -> int:
            asked.write(json.dumps([program, *map(str, words)]) + "\n")
            asked.flush()
            return int(told.readline())

        yield run
        asked.close()
