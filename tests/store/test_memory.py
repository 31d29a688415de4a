from __future__ import annotations

import ctypes
import resource
from types import SimpleNamespace

import pyarrow as pa
import pytest

from stocktrace.live import tuning

#: As much as a batch takes.
BATCH_BYTES = 1 << 24


def pool() -> str:
    return pa.default_memory_pool().backend_name


def taken_from_the_system() -> int:
    """How many pages the system had to give for a batch, which is then freed."""
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    bytearray(b"x") * BATCH_BYTES
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs the malloc of glibc")
def test_what_a_batch_took_is_there_for_the_next_and_goes_to_the_system_at_the_end() -> None:
    with tuning.keep_freed_memory():
        taken_from_the_system()
        again = taken_from_the_system()
    afterwards = [taken_from_the_system() for _ in range(2)]
    assert 2 * again < min(afterwards)


def test_pyarrow_shares_the_heap_of_all_others_for_as_long_as_it_is_kept() -> None:
    before = pool()
    with tuning.keep_freed_memory():
        assert pool() == "system"
        assert pa.array([1, 2, 3]).to_pylist() == [1, 2, 3]
    assert pool() == before


def test_an_error_inside_changes_nothing_for_those_who_come_after() -> None:
    before = pool()
    with pytest.raises(ZeroDivisionError), tuning.keep_freed_memory():
        raise ZeroDivisionError
    assert pool() == before
    assert taken_from_the_system() > 0


def test_a_system_without_glibc_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    with tuning.keep_freed_memory():
        assert pool() == "system"
