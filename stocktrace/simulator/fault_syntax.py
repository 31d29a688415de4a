"""Faults as a person writes them: ``drop,after=1000trades`` or ``status,status=429,for=2m``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from stocktrace.errors import UsageError
from stocktrace.simulator.faults import FAULT_KINDS, Fault
from stocktrace.units import parse_duration

_AFTER = re.compile(r"(\d+)(trades|connections)")
# What only some kinds know; all others know "after", "for" and "repeat".
_PARAMETERS = {
    "status": ("status",),
    "handshake-delay": ("by",),
    "close": ("code",),
    "inject": ("frame",),
    "silent": ("symbol",),
    "duplicate": ("times",),
    "copies": ("times",),
    "late": ("by",),
    "lag": ("by",),
}
_REQUIRED = {"inject": "frame"}
_COMMON = ("after", "for", "repeat")


def parse_fault(text: str) -> Fault:
    """The fault meant by ``KIND[,after=…][,for=…][,repeat][,…]``.

    ``after`` is a duration, or a number of trades or connections (``1000trades``,
    ``2connections``), and may stand twice. ``frame=`` takes all the rest of the text.

    Raises:
        UsageError: it is none; the sentence says what can be written.
    """
    head, has_frame, frame = text.partition(",frame=")
    kind, *options = head.split(",")
    if kind not in FAULT_KINDS:
        raise UsageError(f"{kind!r} is no fault: use one of {', '.join(FAULT_KINDS)}.")
    if has_frame:
        options.append(f"frame={frame}")
    known = (*_COMMON, *_PARAMETERS.get(kind, ()))
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in known or bool(equals) == (name == "repeat"):
            raise UsageError(f"The fault {kind} takes {_list_names(known)}, and not {option!r}.")
        field, meaning = _after(value) if name == "after" else _parse_value(kind, name, value)
        if field in given:
            raise UsageError(f"The fault {text!r} says {name} twice.")
        given[field] = meaning
    if kind in _REQUIRED and _REQUIRED[kind] not in given:
        raise UsageError(f"The fault {kind} needs {_REQUIRED[kind]}=….")
    return Fault(cast("Any", kind), **given)


def _after(value: str) -> tuple[str, Any]:
    match = _AFTER.fullmatch(value)
    if match is not None:
        return f"after_{match[2]}", int(match[1])
    return "after_seconds", _duration("after", value)


def _parse_value(kind: str, name: str, value: str) -> tuple[str, Any]:
    meanings: dict[str, Callable[[], tuple[str, Any]]] = {
        "for": lambda: ("lasting", _duration("for", value)),
        "by": lambda: ("seconds", _duration("by", value)),
        "repeat": lambda: ("repeat", True),
        "status": lambda: ("status", _parse_int(kind, name, value, 200, 599)),
        "code": lambda: ("code", _parse_int(kind, name, value, 1000, 4999)),
        "times": lambda: ("times", _parse_int(kind, name, value, 2, 100)),
        "symbol": lambda: ("symbol", value),
        "frame": lambda: ("frame", value.encode("utf-8", "surrogateescape")),
    }
    return meanings[name]()


def _duration(name: str, value: str) -> float:
    try:
        return parse_duration(value)
    except UsageError:
        also = ", or 1000trades or 2connections" if name == "after" else ""
        raise UsageError(f"{name}={value} is no time: write it like 5s or 1m30s{also}.") from None


def _parse_int(kind: str, name: str, value: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdigit() and least <= int(value) <= most):
        raise UsageError(f"The {name} of the fault {kind} is a number from {least} to {most}.")
    return int(value)


def _list_names(names: tuple[str, ...]) -> str:
    texts = [name if name == "repeat" else f"{name}=…" for name in names]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
