"""Memory tuning of the process while a capture runs; measured in docs/performance.md."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

import pyarrow as pa


@contextlib.contextmanager
def reduce_garbage_collection() -> Iterator[None]:
    """Look for reference cycles less often: trades come by the hundred thousand and have none.

    With the default thresholds, looking for cycles takes half of the decoding time.
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


# From malloc.h of glibc; other libraries do not have them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT_BYTES = 1 << 17
# More than a batch and a row group need; the maximum that mallopt(3) allows for a heap's block.
_KEPT_BYTES, _BLOCK_BYTES = 1 << 28, 1 << 25


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory, because the next batch needs as much.

    A batch allocates some megabytes and frees them, many times a second. By default the system gets
    them back each time and hands them out page by page, each zeroed: 0.3 µs a trade, a tenth of
    the total. Without glibc, only pyarrow's part is kept.
    """
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
    try:
        yield
    finally:
        pa.set_memory_pool(before)
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, _DEFAULT_BYTES)
            mallopt(_MMAP_THRESHOLD, _DEFAULT_BYTES)
            libc.malloc_trim(0)
