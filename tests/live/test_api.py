from __future__ import annotations

import ctypes
import gc
import subprocess
import sys
from types import SimpleNamespace

import pyarrow as pa
import pytest

from stocktrace.live.api import tune_memory

#: Prints how many pages the system had to give for the second batch, and for one after the end.
#: A process of its own: what another thread frees would serve a batch without any page.
BATCHES = """
import contextlib
import resource
from stocktrace.live.api import tune_memory

def pages_of_a_batch():
    before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
    bytearray(b"x") * (1 << 24)
    return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

with contextlib.suppress(ZeroDivisionError), tune_memory():
    pages_of_a_batch()
    again = pages_of_a_batch()
    {ending}
print(again, pages_of_a_batch())
"""


def tuning() -> tuple[str, tuple[int, int, int]]:
    return pa.default_memory_pool().backend_name, gc.get_threshold()


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="needs the malloc of glibc")
@pytest.mark.parametrize("ending", ["pass", "raise ZeroDivisionError"])
def test_what_a_batch_took_is_there_for_the_next_and_goes_to_the_system_at_the_end(
    ending: str,
) -> None:
    code = BATCHES.format(ending=ending)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    again, afterwards = map(int, done.stdout.split())
    assert 2 * again < afterwards


def test_pyarrow_shares_the_heap_of_all_others_for_as_long_as_it_is_kept() -> None:
    before = tuning()
    with tune_memory():
        assert tuning() == ("system", (50_000, 20, 100))
        assert pa.array([1, 2, 3]).to_pylist() == [1, 2, 3]
    assert tuning() == before


def test_an_error_inside_changes_nothing_for_those_who_come_after() -> None:
    before = tuning()
    with pytest.raises(ZeroDivisionError), tune_memory():
        raise ZeroDivisionError
    assert tuning() == before


def test_a_system_without_glibc_does_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    with tune_memory():
        assert tuning()[0] == "system"
