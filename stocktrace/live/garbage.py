"""How often Python looks for cycles while a capture runs."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Look for cycles less often: trades are made by the hundred thousand and are in none.

    With the default thresholds half of the decoding time went into looking (docs/performance.md).
    """
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)
