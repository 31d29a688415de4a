from __future__ import annotations

import ctypes
from types import SimpleNamespace

import pyarrow as pa
import pytest

from stocktrace.live import tuning


def pool() -> str:
    return pa.default_memory_pool().backend_name


def test_pyarrow_shares_the_heap_of_all_others_for_as_long_as_it_is_kept() -> None:
    before = pool()
    with tuning.keep_freed_memory():
        assert pool() == "system"
        assert pa.array([1, 2, 3]).to_pylist() == [1, 2, 3]
    assert pool() == before


def test_what_dies_inside_changes_nothing_for_those_who_come_after() -> None:
    before = pool()
    with pytest.raises(ZeroDivisionError), tuning.keep_freed_memory():
        raise ZeroDivisionError
    assert pool() == before


def test_the_heap_is_told_and_told_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[int, ...]] = []
    libc = SimpleNamespace(
        mallopt=lambda *option: told.append(option), malloc_trim=lambda _: told.append(())
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    with tuning.keep_freed_memory():
        assert told == [(-1, 1 << 28), (-3, 1 << 25)]
    assert told[2:] == [(-1, 1 << 17), (-3, 1 << 17), ()]


def test_a_system_without_glibc_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    with tuning.keep_freed_memory():
        assert pool() == "system"
