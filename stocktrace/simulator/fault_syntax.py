"""Faults as a command line has them: ``drop,after=1000trades`` or ``status,status=429,for=2m``."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, cast

from stocktrace.errors import UsageError
from stocktrace.simulator.faults import FAULT_KINDS, Fault
from stocktrace.units import parse_duration

_AFTER = re.compile(r"(\d+)(trades|connections)")
_COMMON_OPTIONS = ("after", "for", "repeat")
# The options of one kind, beside the common ones.
_OPTIONS = {
    "status": ("status",),
    "handshake-delay": ("by",),
    "close": ("code",),
    "inject": ("frame",),
    "silent": ("symbol",),
    "duplicate": ("times",),
    "duplicate-rows": ("times",),
    "late": ("by",),
    "lag": ("by",),
}
_REQUIRED = {"inject": "frame"}


def parse_fault(text: str) -> Fault:
    """Parse ``KIND[,after=…][,for=…][,repeat][,…]``.

    ``after`` is a duration, or a number of trades or connections (``1000trades``,
    ``2connections``), and may occur twice. ``frame=`` takes the rest of the text.

    Raises:
        UsageError: the text is not a fault; the message says what is valid.
    """
    head, has_frame, frame = text.partition(",frame=")
    kind, *options = head.split(",")
    if kind not in FAULT_KINDS:
        raise UsageError(f"Unknown fault {kind!r}. Use one of {', '.join(FAULT_KINDS)}.")
    if has_frame:
        options.append(f"frame={frame}")
    known = (*_COMMON_OPTIONS, *_OPTIONS.get(kind, ()))
    fields: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if name not in known or bool(equals) == (name == "repeat"):
            raise UsageError(
                f"The fault {kind} has no option {option!r}. Its options are {_list_names(known)}."
            )
        field, parsed = _parse_after(value) if name == "after" else _parse_value(kind, name, value)
        if field in fields:
            raise UsageError(f"The fault {text!r} has {name} twice.")
        fields[field] = parsed
    if kind in _REQUIRED and _REQUIRED[kind] not in fields:
        raise UsageError(f"The fault {kind} needs {_REQUIRED[kind]}=….")
    return Fault(cast("Any", kind), **fields)


def _parse_after(value: str) -> tuple[str, Any]:
    match = _AFTER.fullmatch(value)
    if match is not None:
        return f"after_{match[2]}", int(match[1])
    return "after_seconds", _parse_duration("after", value)


def _parse_value(kind: str, name: str, value: str) -> tuple[str, Any]:
    parsers: dict[str, Callable[[], tuple[str, Any]]] = {
        "for": lambda: ("duration", _parse_duration("for", value)),
        "by": lambda: ("seconds", _parse_duration("by", value)),
        "repeat": lambda: ("repeat", True),
        "status": lambda: ("status", _parse_int(kind, name, value, 200, 599)),
        "code": lambda: ("code", _parse_int(kind, name, value, 1000, 4999)),
        "times": lambda: ("times", _parse_int(kind, name, value, 2, 100)),
        "symbol": lambda: ("symbol", value),
        "frame": lambda: ("frame", value.encode("utf-8", "surrogateescape")),
    }
    return parsers[name]()


def _parse_duration(name: str, value: str) -> float:
    try:
        return parse_duration(value)
    except UsageError:
        also = ", 1000trades or 2connections" if name == "after" else ""
        raise UsageError(
            f"{name}={value} is not a valid time. Write it as 5s or 1m30s{also}."
        ) from None


def _parse_int(kind: str, name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
        raise UsageError(
            f"{name}={value} is not valid for the fault {kind}. Use a number from {low} to {high}."
        )
    return int(value)


def _list_names(names: tuple[str, ...]) -> str:
    texts = [name if name == "repeat" else f"{name}=…" for name in names]
    return f"{', '.join(texts[:-1])} and {texts[-1]}"
