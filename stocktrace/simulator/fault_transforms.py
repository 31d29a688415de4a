"""Faults that change what is played on its way to one client. No I/O; the clock is given."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import msgspec

from stocktrace.simulator.faults import Fault
from stocktrace.simulator.protocol import Subscriptions
from stocktrace.simulator.subscription_filter import FramePiece, filter_piece, shift_times

# Late prints are some among many (FAULTS.md, 16).
_LATE_EVERY = 10
# No client's parser of numbers takes it, and every JSON parser does.
_NO_PRICE = "n/a"
_MS_PER_SECOND = 1000


class FaultTransforms:
    """The states that faults have brought one connection into; ``now`` is monotonic seconds."""

    def __init__(self, subscriptions: Subscriptions, now: Callable[[], float]) -> None:
        self._subscriptions = subscriptions
        self._now = now
        self._states: dict[int, Callable[[FramePiece], list[FramePiece]]] = {}
        self._number = 0

    def begin(self, fault: Fault) -> Callable[[], None]:
        """Another fault is at work; gives what ends it."""
        self._number += 1
        number = self._number
        self._states[number] = self._state(fault)
        return lambda: self._states.pop(number, None) and None

    def _state(self, fault: Fault) -> Callable[[FramePiece], list[FramePiece]]:
        if fault.kind == "mute":
            return lambda _: []
        if fault.kind == "silent":
            return self._without(fault.symbol or next(iter(self._subscriptions.symbols), ""))
        return FrameRewrite(fault, self._now)

    def _without(self, symbol: str) -> Callable[[FramePiece], list[FramePiece]]:
        def silent(piece: FramePiece) -> list[FramePiece]:
            part = filter_piece(piece, self._subscriptions.symbols.keys() - {symbol})
            return [] if part is None else [part]

        return silent

    def __bool__(self) -> bool:
        return bool(self._states)

    def __call__(self, piece: FramePiece) -> list[FramePiece]:
        """What takes the place of ``piece``, which need not be a frame of trades."""
        pieces = [piece]
        for state in self._states.values():
            pieces = [
                after
                for each in pieces
                for after in (state(each) if each.symbols is not None else [each])
            ]
        return pieces


class FrameRewrite:
    """One fault that rewrites frames of trades, at work from now on."""

    def __init__(self, fault: Fault, now: Callable[[], float]) -> None:
        self._fault = fault
        self._now = now
        self._began = now()
        self._frames = 0
        self._way: Callable[[FramePiece, tuple[str, ...]], list[FramePiece]] = {
            "duplicate": lambda piece, _: [piece] * fault.times,
            "copies": self._copies,
            "out-of-order": lambda piece, names: [
                FramePiece(_frame(_rows(piece)[::-1]), names[::-1])
            ],
            "late": lambda piece, _: [_delay_times(piece, fault.by) if self._tenth else piece],
            "lag": lambda piece, _: [_delay_times(piece, fault.by * (self._now() - self._began))],
            "bad-row": lambda piece, _: [_with_bad_price(piece) if self._frames == 1 else piece],
            "truncate": lambda piece, _: [FramePiece(piece.frame[:-10], None)],
        }[fault.kind]

    def __call__(self, piece: FramePiece) -> list[FramePiece]:
        """What takes the place of ``piece``."""
        self._frames += 1
        return self._way(piece, piece.symbols or ())

    @property
    def _tenth(self) -> bool:
        return self._frames % _LATE_EVERY == 1

    def _copies(self, piece: FramePiece, symbols: tuple[str, ...]) -> list[FramePiece]:
        times = self._fault.times
        return [FramePiece(_frame(_rows(piece) * times), symbols * times)]


def _delay_times(piece: FramePiece, seconds: float) -> FramePiece:
    back = round(seconds * _MS_PER_SECOND)
    return FramePiece(shift_times(piece.frame, lambda time: time - back), piece.symbols)


def _with_bad_price(piece: FramePiece) -> FramePiece:
    *rows, last = _rows(piece)
    spoilt = json.dumps({**json.loads(last), "p": _NO_PRICE}, separators=(",", ":")).encode()
    return FramePiece(_frame([*rows, spoilt]), (piece.symbols or ())[:-1])


class _FrameRows(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]


_decode_rows = msgspec.json.Decoder(_FrameRows).decode


def _rows(piece: FramePiece) -> list[bytes]:
    """The text of each trade, as it stands."""
    return [bytes(row) for row in _decode_rows(piece.frame).data]


def _frame(rows: Sequence[bytes]) -> bytes:
    return b'{"data":[' + b",".join(rows) + b'],"type":"trade"}'
