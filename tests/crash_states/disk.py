"""A model of a disk: what can be on it after a power cut, as POSIX allows it.

- The bytes of a file are durable up to its last ``fsync``. Each later write or truncation may be on
  the disk, or not; a write may be cut short, or may only have made the file longer, by zeros.
- A name (created, renamed, linked, deleted) is durable after an ``fsync`` of its folder. Each later
  change may be on the disk, or not, whatever happened to the bytes of the file. A rename is atomic.
- A folder whose name is lost is lost with everything in it.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tests.crash_states.trace import Call

#: So many calls may have ended in another order than they happened, on other threads.
_DISORDER = 50


@dataclass(eq=False, slots=True)
class Inode:
    """A file or a folder as it is without a power cut, and what changed since ``base``."""

    is_folder: bool
    #: The path under which it was made.
    made_as: str = ""
    base: bytes = b""
    names: dict[str, Inode] = field(default_factory=dict)
    content: bytearray = field(default_factory=bytearray)
    writes: list[Write] = field(default_factory=list)
    #: When each sync of it began and ended.
    syncs: list[tuple[int, int]] = field(default_factory=list)

    def durable_at(self, time: int) -> float:
        """When a change that had ended at ``time`` was durable."""
        return next((ended for began, ended in self.syncs if began > time), math.inf)

    def durable_bytes(self, time: int) -> bytes:
        """The bytes that a power cut at ``time`` cannot take."""
        content = bytearray(self.base)
        for write in self.writes:
            if self.durable_at(write.time) <= time:
                write.apply(content, write.data)
        return bytes(content)


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes at an offset of a file, or its truncation to ``offset`` if ``data`` is ``None``."""

    time: int
    offset: int
    data: bytes | None

    def apply(self, content: bytearray, data: bytes | None) -> None:
        """Write ``data``, which may be a part of the bytes, or only make the file longer."""
        if self.data is None:
            content[self.offset :] = bytes(max(0, self.offset - len(content)))
            return
        end = self.offset + len(data if data is not None else self.data)
        content.extend(bytes(max(0, end - len(content))))
        if data is not None:
            content[self.offset : end] = data


@dataclass(frozen=True, slots=True)
class Renaming:
    """A change of names: what each means afterwards, ``None`` for nothing.

    It is durable when the folder of the first one is synced.
    """

    time: int
    names: tuple[tuple[Inode, str, Inode | None], ...]

    def apply(self, names: dict[Inode, dict[str, Inode]]) -> None:
        """Change ``names``, those of each folder."""
        for folder, name, inode in self.names:
            if inode is None:
                names[folder].pop(name, None)
            else:
                names[folder][name] = inode


@dataclass(frozen=True, slots=True)
class Operation:
    """A call that changed something, or synced it: on which thread, and of which file."""

    time: int
    thread: str
    call: str
    what: str


class Fate(Protocol):
    """Decides what a power cut does with what is not durable."""

    def of_names(self, renamings: list[Renaming]) -> list[Renaming]:
        """Return those that are on the disk."""

    def of_bytes(self, writes: list[Write]) -> Iterator[tuple[Write, bytes | None]]:
        """Yield those that are on the disk, in order, each with its bytes, ``None`` for zeros."""


class Disk:
    """Everything that happened below the folder ``root``, from calls in the order of their ends."""

    def __init__(self, root: Path, base: dict[str, bytes | None]) -> None:
        """Begin with ``base``: the content of each file, ``None`` for a folder; it is durable."""
        self.root = str(root)
        self.top = Inode(is_folder=True)
        #: What happened and when: the power is cut after one of them.
        self.operations: list[Operation] = []
        self.inodes = [self.top]
        self._renamings: list[Renaming] = []
        self._descriptors: dict[int, Inode] = {}
        self._offsets: dict[int, int | None] = {}  # ``None``: it appends
        for name, content in sorted(base.items()):
            folder, last = self._parent(f"{root}/{name}")
            folder.names[last] = inode = self._new(name, is_folder=content is None)
            inode.base = content or b""
            inode.content[:] = inode.base
        self._base = {inode: dict(inode.names) for inode in self.inodes}

    # --- what happened ---------------------------------------------------------------------------

    def add(self, calls: Iterable[Call]) -> None:
        """Take in calls."""
        early: list[Call] = []
        for call in calls:
            early = [one for one in (*early, call) if not self._try(one)]
            if len(early) > _DISORDER:
                raise RuntimeError(f"{early[0]} concerns a file that does not exist.")

    def _try(self, call: Call) -> bool:
        try:
            what = self._take(call)
        except KeyError:  # it was made by a call that ended later
            return False
        if what:
            self.operations.append(Operation(call.ended, call.thread, call.name, what))
        return True

    def _take(self, call: Call) -> str:
        """Take in a call; return what it changed, or "" for nothing."""
        match call.name:
            case "openat":
                return self._open(call)
            case "lseek" | "write" | "writev" | "pwrite64" | "ftruncate" | "sendfile":
                return self._write(call)
            case "fsync" | "fdatasync":
                number, path = call.descriptors[0]
                self._descriptors[number].syncs.append((call.began, call.ended))
                return self._short(path)
            case "truncate":
                inode = self._find(call.path())
                self._change(inode, Write(call.ended, int(call.rest[0]), None))
                return self._short(call.path())
        return self._rename(call)

    def _open(self, call: Call) -> str:
        path, flags, number = call.path(), call.rest[0], call.result
        self._offsets[number] = None if "O_APPEND" in flags else 0
        if path == self.root:
            self._descriptors[number] = self.top
            return ""
        if "O_TMPFILE" in flags or not self._is_inside(path):
            self._descriptors[number] = Inode(is_folder=False)  # whatever it is, it is lost
            return ""
        folder, last = self._parent(path)
        is_new = "O_CREAT" in flags and last not in folder.names
        if is_new:
            self._change_names(call, (folder, last, self._new(self._short(path), is_folder=False)))
        inode = self._descriptors[number] = folder.names[last]
        if "O_TRUNC" in flags and inode.content:
            self._change(inode, Write(call.ended, 0, None))
            is_new = True
        return self._short(path) if is_new else ""

    def _write(self, call: Call) -> str:
        number, path = call.descriptors[0]
        if not self._is_inside(path):
            return ""
        inode, offset, rest = self._descriptors[number], self._offsets[number], call.rest
        if call.name == "lseek":
            self._offsets[number] = None if offset is None else call.result
            return ""
        if call.name == "ftruncate":
            self._change(inode, Write(call.ended, int(rest[0]), None))
            return f"{self._short(path)} to {rest[0]}"
        if call.name == "pwrite64":
            data, at = call.strings[0], int(rest[-1])
        else:
            at = len(inode.content) if offset is None else offset
            data = b"".join(call.strings)
            if call.name == "sendfile":
                begin = int(rest[0].partition("]")[0].strip("[")) if "[" in rest[0] else 0
                source = call.descriptors[1]
                data = self._bytes_of(*source)[begin : begin + call.result]
            if offset is not None:
                self._offsets[number] = at + call.result
        if not call.result:
            return ""
        self._change(inode, Write(call.ended, at, data[: call.result]))
        return f"{self._short(path)} {call.result} bytes"

    def _rename(self, call: Call) -> str:
        path = call.path()
        if not self._is_inside(path):
            return ""
        folder, last = self._parent(path)
        shown = self._short(path)
        if call.name.startswith("mkdir"):
            self._change_names(call, (folder, last, self._new(shown, is_folder=True)))
        elif call.name.startswith(("unlink", "rmdir")):
            self._change_names(call, (folder, last, None))
        else:
            inode, target = folder.names[last], call.path(1)
            other, name = self._parent(target)
            shown = f"{shown} {self._short(target)}"
            if call.name.startswith("link"):
                self._change_names(call, (other, name, inode))
            elif "RENAME_EXCHANGE" in call.rest:
                self._change_names(call, (other, name, inode), (folder, last, other.names[name]))
            elif other.names.get(name) is not inode:  # otherwise both names stay
                self._change_names(call, (other, name, inode), (folder, last, None))
        return shown

    def _change_names(self, call: Call, *names: tuple[Inode, str, Inode | None]) -> None:
        renaming = Renaming(call.ended, names)
        self._renamings.append(renaming)
        renaming.apply({folder: folder.names for folder, _, _ in names})

    def _change(self, inode: Inode, write: Write) -> None:
        inode.writes.append(write)
        write.apply(inode.content, write.data)

    def _new(self, path: str, *, is_folder: bool) -> Inode:
        inode = Inode(is_folder, path)
        self.inodes.append(inode)
        return inode

    def _is_inside(self, path: str) -> bool:
        return path.startswith(f"{self.root}/")

    def _short(self, path: str) -> str:
        return os.path.relpath(path, self.root)

    def _parent(self, path: str) -> tuple[Inode, str]:
        *folders, last = self._short(path).split("/")
        inode = self.top
        for name in folders:
            inode = inode.names[name]
        return inode, last

    def _find(self, path: str) -> Inode:
        folder, last = self._parent(path)
        return folder.names[last]

    def _bytes_of(self, number: int, path: str) -> bytes:
        return bytes(self._descriptors[number].content) or Path(path).read_bytes()

    def files_now(self) -> dict[str, bytes | None]:
        """The content of each file at the end, without a power cut; ``None`` for a folder."""
        return _walk({inode: inode.names for inode in self.inodes}, lambda inode: inode.content)

    # --- what a power cut leaves -----------------------------------------------------------------

    def files_after(self, time: int, fate: Fate) -> dict[str, bytes | None]:
        """Return what is on the disk: the content of each file, ``None`` for a folder."""
        names = {inode: dict(self._base.get(inode, {})) for inode in self.inodes}
        done = [renaming for renaming in self._renamings if renaming.time <= time]
        is_durable = {each: each.names[0][0].durable_at(each.time) <= time for each in done}
        kept = set(fate.of_names([each for each in done if not is_durable[each]]))
        for renaming in done:
            if is_durable[renaming] or renaming in kept:
                renaming.apply(names)
        return _walk(names, lambda inode: self._content(inode, time, fate))

    def _content(self, inode: Inode, time: int, fate: Fate) -> bytes:
        content = bytearray(inode.durable_bytes(time))
        pending = [
            write for write in inode.writes if write.time <= time < inode.durable_at(write.time)
        ]
        for write, data in fate.of_bytes(pending):
            write.apply(content, data)
        return bytes(content)


def _walk(
    names: Mapping[Inode, Mapping[str, Inode]], read: Callable[[Inode], bytes | bytearray]
) -> dict[str, bytes | None]:
    """The content of each file below the first folder, by path; ``None`` for a folder."""
    files: dict[str, bytes | None] = {}
    waiting = [("", next(iter(names)))]
    while waiting:
        path, folder = waiting.pop()
        for name, inode in sorted(names[folder].items()):
            files[f"{path}{name}"] = None if inode.is_folder else bytes(read(inode))
            if inode.is_folder:
                waiting.append((f"{path}{name}/", inode))
    return files
