"""The one wait for what nobody tells: what a file, a server or another process holds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from stocktrace.clock import Deadline


def eventually(ask: Callable[[], Any], *, within: float = 30.0) -> Any:
    """What ``ask`` gives once it is true; it is asked 20 times a second."""
    deadline, tick = Deadline.after(within), threading.Event()
    while not (answer := ask()):
        assert not deadline.passed(), f"still {answer!r} after {within} s"
        tick.wait(0.05)
    return answer
