"""Networks of their own for tests (Linux, as root): namespaces, and a slow and lossy path.

The path is a program between two TUN devices, because not every kernel has netem.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import select
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest

T = TypeVar("T")

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_SET_NAME, _IS_TUN, _PLAIN = 0x400454CA, 0x0001, 0x1000  # TUNSETIFF, IFF_TUN, IFF_NO_PI


class Namespace:
    """A network with a loopback device and the address 10.9.0.1; threads can be in it."""

    def __init__(self) -> None:
        if not sys.platform.startswith("linux") or os.geteuid() != 0:
            pytest.skip("a network namespace needs Linux and root")
        self._libc = ctypes.CDLL(None, use_errno=True)
        with ThreadPoolExecutor(1) as pool:
            self._file = pool.submit(self._make).result()
        self.run(ip, "link set lo up")
        self.run(ip, "address add 10.9.0.1 dev lo")

    def _make(self) -> int:
        if self._libc.unshare(_NEW_NETWORK) != 0:
            pytest.skip(f"no network namespace: {os.strerror(ctypes.get_errno())}")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY)

    def run(self, work: Callable[..., T], *given: Any) -> T:
        """Run a function in this network, on a thread of its own; its threads are in it, too."""

        def inside() -> T:
            assert self._libc.setns(self._file, _NEW_NETWORK) == 0
            return work(*given)

        with ThreadPoolExecutor(1) as pool:
            return pool.submit(inside).result()

    def close(self) -> None:
        os.close(self._file)


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def open_device(address: str, peer: str) -> int:
    """Make a device of the network of this thread; return the file that has its packets."""
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, _SET_NAME, struct.pack("16sH22x", b"path", _IS_TUN | _PLAIN))
    ip(f"address add {address} peer {peer} dev path")
    ip("link set path up")
    return device


@dataclass
class Direction:
    """Packets from one device to another: late by ``delay_s``, at a rate, some of them lost."""

    source: int
    target: int
    delay_s: float = 0.1
    bytes_per_s: float = 10e6 / 8
    loss: float = 0.01
    limit: int = 1000  # packets, as netem
    random: random.Random = field(default_factory=lambda: random.Random(1))
    packets: int = 0
    lost: int = 0

    def relay(self, stopping: threading.Event) -> None:
        waiting, free_at = deque[tuple[float, bytes]](), 0.0
        while not stopping.is_set():
            now = time.monotonic()
            while waiting and waiting[0][0] <= now:
                os.write(self.target, waiting.popleft()[1])
            patience = max(0.0, waiting[0][0] - now) if waiting else 0.1
            if not select.select([self.source], [], [], min(patience, 0.1))[0]:
                continue
            packet = os.read(self.source, 1 << 16)
            self.packets += 1
            if len(waiting) >= self.limit or self.random.random() < self.loss:
                self.lost += 1
                continue
            free_at = max(free_at, time.monotonic()) + len(packet) / self.bytes_per_s
            waiting.append((free_at + self.delay_s, packet))


@contextmanager
def lossy_path(near: Namespace, far: Namespace) -> Iterator[tuple[Direction, Direction]]:
    """Join two networks, 10.9.1.1 and 10.9.1.2: a round trip of 200 ms, 1 % loss, 10 Mbit/s."""
    ours = near.run(open_device, "10.9.1.1", "10.9.1.2")
    theirs = far.run(open_device, "10.9.1.2", "10.9.1.1")
    directions = Direction(ours, theirs), Direction(theirs, ours)
    stopping = threading.Event()
    threads = [threading.Thread(target=each.relay, args=(stopping,)) for each in directions]
    for thread in threads:
        thread.start()
    try:
        yield directions
    finally:
        stopping.set()
        for thread in threads:
            thread.join()
        os.close(ours)
        os.close(theirs)
