"""How many of all cases are tried: a sample each time, and all of them with ``-m slow``."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings

T = TypeVar("T")
Pick = Callable[[Sequence[Any]], list[Any]]
#: Of how many cases a sample is.
ENOUGH = 24


def some(cases: Sequence[T]) -> list[T]:
    """The first, the last and others between them, in their order and each time the same."""
    if len(cases) <= ENOUGH:
        return list(cases)
    between = random.Random(len(cases)).sample(range(1, len(cases) - 1), ENOUGH - 2)
    return [cases[at] for at in (0, *sorted(between), len(cases) - 1)]


def every(cases: Sequence[T]) -> list[T]:
    """All of them."""
    return list(cases)


#: Gives a test ``pick``, which it chooses its cases with.
SAMPLED = pytest.mark.parametrize("pick", [some, pytest.param(every, marks=pytest.mark.slow)])


def costly() -> int:
    """A third of the examples that others draw."""
    return settings().max_examples // 3


def sizes(few: int, many: int) -> list[Any]:
    """Parameters of a test that tries ``few`` each time and ``many`` with ``-m slow``."""
    return [few, pytest.param(many, marks=pytest.mark.slow)]
