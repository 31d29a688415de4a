"""How often Python looks for cycles while a capture runs."""
# MERGED """What a busy process does with memory that it has no more use for."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

import pyarrow as pa


@contextlib.contextmanager
def reduce_garbage_collection() -> Iterator[None]:
    """Look for cycles less often: trades are made by the hundred thousand and are in none.

    With the default thresholds half of the decoding time went into looking (docs/performance.md).
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


# malloc.h; glibc alone has them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT_BYTES = 1 << 17
# More than a batch and a row group take; the most that mallopt(3) lets a block of a heap have.
_KEPT_BYTES, _BLOCK_BYTES = 1 << 28, 1 << 25


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep what is freed: the next batch takes as much.

    A batch takes some megabytes and gives them back, many times a second. By default they go to the
    system each time and are had again page by page, each zeroed anew: 0.3 µs a trade, a tenth of
    all (docs/performance.md). Where there is no glibc, only pyarrow's part of it is kept.
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
