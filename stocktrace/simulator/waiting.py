"""Waiting for whichever comes first."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def wait_first(*coroutines: Coroutine[Any, Any, object], within: float | None = None) -> None:
    """Wait until one of them is done, or ``within`` seconds passed; the others are cancelled.

    What they raise is dropped: here it is only ever that the client went, and that is seen where
    its messages are read.
    """
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        await asyncio.wait(tasks, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
