"""The file operations of a process, in the order in which they ended, from the output of strace."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

CALLS = (
    *("openat", "lseek", "write", "pwrite64", "writev", "truncate", "ftruncate", "sendfile"),
    *("fsync", "fdatasync", "mkdir", "mkdirat", "rmdir", "link", "linkat", "unlink", "unlinkat"),
    *("rename", "renameat", "renameat2"),
)
#: These write as well, and are not understood: the recording fails.
UNKNOWN = ("copy_file_range", "pwritev", "pwritev2", "fallocate", "splice")
_LINE = re.compile(r"(\d+) +(.*)\n")
_CALL = re.compile(r"(\w+)\((.*)\) += (-?\d+)")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"(-?\d+|AT_FDCWD)<((?:\\x[0-9a-f]{2})*)>(?:\(deleted\))?")


@dataclass(frozen=True, slots=True)
class Call:
    """A system call that succeeded; ``began`` and ``ended`` order it among the others.

    ``rest`` are its arguments without strings and descriptors.
    """

    thread: str
    name: str
    strings: tuple[bytes, ...]
    descriptors: tuple[tuple[int, str], ...]
    rest: tuple[str, ...]
    result: int
    began: int
    ended: int

    def path(self, number: int = 0) -> str:
        """The absolute path that the call names; ``number`` 1 is the second one."""
        path = os.fsdecode(self.strings[number])
        bases = [base for at, base in self.descriptors if self.name.endswith(("at", "at2"))]
        return os.path.join(bases[number], path) if number < len(bases) else path  # noqa: PTH118


def record(command: Sequence[str], output: Path) -> None:
    """Run a program under strace."""
    calls = "trace=" + ",".join((*CALLS, *UNKNOWN))
    options = [
        "-f",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        "100000000",
        "-e",
        calls,
        "-e",
        "signal=none",
    ]
    here = Path(__file__).parents[2]  # a test may run in another folder
    done = subprocess.run(
        ["strace", *options, "-o", output, *command],
        cwd=here,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}: {done.stdout}{done.stderr}")


def read_calls(file: Path, root: Path) -> Iterator[Call]:
    """Yield the calls that concern files below ``root``, in the order in which they ended."""
    escaped = "".join(f"\\x{byte:02x}" for byte in os.fsencode(root))
    below = re.compile(f'{re.escape(escaped)}(?:[">]|\\\\x2f)')
    unfinished: dict[str, tuple[int, str]] = {}
    with file.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            thread, text = _LINE.fullmatch(line).groups()  # type: ignore[union-attr]
            began = number
            if text.endswith(" <unfinished ...>"):
                unfinished[thread] = number, text.removesuffix(" <unfinished ...>")
                continue
            if text.startswith("<... "):
                began, beginning = unfinished.pop(thread)
                text = beginning + text.partition(" resumed>")[2]
            match = _CALL.match(text)
            if match is None or match[3].startswith("-") or not below.search(text):
                continue
            if match[1] in UNKNOWN:
                raise RuntimeError(f"{match[1]} is not understood: teach it to `disk`.")
            yield _call(thread, match, began, number)


def _call(thread: str, match: re.Match[str], began: int, ended: int) -> Call:
    name, arguments, result = match.groups()
    strings = tuple(_decode(text) for text in _STRING.findall(arguments))
    plain = _STRING.sub("", arguments)
    descriptors = tuple(
        (-1 if number == "AT_FDCWD" else int(number), os.fsdecode(_decode(path)))
        for number, path in _DESCRIPTOR.findall(plain)
    )
    words = (word.strip() for word in _DESCRIPTOR.sub("", plain).split(","))
    rest = tuple(word for word in words if word)
    return Call(thread, name, strings, descriptors, rest, int(result), began, ended)


def _decode(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))
