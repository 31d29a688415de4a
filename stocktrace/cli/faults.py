"""The flags of ``stocktrace exchange`` that make it misbehave (docs/faults.md)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from stocktrace.exchange import Fault

#: As ``stocktrace.exchange.settings`` has it, which takes half a second to load.
SecondConnection = Literal["kills-old", "kills-both", "refused-429", "both-live"]

FaultFlags = Annotated[
    list[str] | None,
    Parameter(
        name="--fault",
        negative="",
        help="KIND[,OPTION...], such as drop or mute,after=1000trades,for=1m,repeat; may be given "
        "again. The kinds and their options are in docs/faults.md.",
    ),
]
ChaosFlag = Annotated[
    int | None, Parameter(name="--chaos", help="Faults at random; the same for the same number.")
]


def faults_of(texts: Sequence[str] | None, seed: int | None) -> list[Fault]:
    """The faults that the flags ask for.

    Raises:
        UsageError: one of them is none.
    """
    if not texts and seed is None:
        return []

    from stocktrace.exchange.chaos import chaos
    from stocktrace.exchange.spelling import parse_fault

    faults = [parse_fault(text) for text in texts or ()]
    return faults if seed is None else [*faults, *chaos(seed)]
