"""Sections 1 to 5 and 10: framing, pings and pongs, reserved bits and opcodes, fragments."""

from __future__ import annotations

from tests.feed.conftest import BINARY, CLOSE, CONTINUED, PING, PONG, TEXT, cut, frame
from tests.feed.rfc6455.case import (
    BOTH,
    HELLO,
    ONE,
    RAW,
    TWO,
    Case,
    fragmented,
    fragments,
    refused,
    sound,
)

LOOSE = b"non-continuation payload"
SIZES = (0, 125, 126, 127, 128, 65535, 65536, 65536)

FRAMING = {
    f"1.{kind}.{at}": sound(frame(byte * size, opcode), messages=(byte * size,))
    for kind, opcode, byte in ((1, TEXT, b"*"), (2, BINARY, b"\xfe"))
    for at, size in enumerate(SIZES, 1)
}

TEN_PINGS = sound(
    *(frame(b"payload-%d" % at, PING) for at in range(10)),
    pongs=tuple(b"payload-%d" % at for at in range(10)),
)
PINGS = {
    "2.1": sound(frame(b"", PING), pongs=(b"",)),
    "2.2": sound(frame(HELLO, PING), pongs=(HELLO,)),
    "2.3": sound(frame(RAW, PING), pongs=(RAW,)),
    "2.4": sound(frame(b"\xfe" * 125, PING), pongs=(b"\xfe" * 125,)),
    "2.5": refused(frame(b"\xfe" * 126, PING)),
    "2.6": sound(frame(b"\xfe" * 125, PING), pongs=(b"\xfe" * 125,)),
    "2.7": sound(frame(b"", PONG)),
    "2.8": sound(frame(b"unsolicited pong payload", PONG)),
    "2.9": sound(
        frame(b"unsolicited pong payload", PONG),
        frame(b"ping payload", PING),
        pongs=(b"ping payload",),
    ),
    "2.10": TEN_PINGS,
    "2.11": TEN_PINGS,
}


def spoilt(bad: bytes) -> Case:
    """A message, a frame that is refused, and a ping that is answered no more."""
    return refused(frame(HELLO), bad, frame(b"", PING), messages=(HELLO,))


RESERVED_BITS = {
    "3.1": refused(frame(HELLO, reserved=1)),
    "3.2": spoilt(frame(HELLO, reserved=2)),
    "3.3": spoilt(frame(HELLO, reserved=3)),
    "3.4": spoilt(frame(HELLO, reserved=4)),
    "3.5": refused(frame(RAW, BINARY, reserved=5)),
    "3.6": refused(frame(HELLO, BINARY, reserved=6)),
    "3.7": refused(frame(b"", CLOSE, reserved=7)),
}

RESERVED_OPCODES = {
    f"4.{kind}.{at}": case
    for kind, first in ((1, 3), (2, 11))
    for at, case in enumerate(
        (
            refused(frame(b"", first)),
            refused(frame(b"reserved opcode payload", first + 1)),
            spoilt(frame(b"", first + 2)),
            spoilt(frame(HELLO, first + 3)),
            spoilt(frame(HELLO, first + 4)),
        ),
        1,
    )
}

TWO_PARTS = fragmented([ONE, TWO])
PING_BETWEEN = sound(
    frame(ONE, fin=False),
    frame(b"ping payload", PING),
    frame(TWO, CONTINUED),
    messages=(BOTH,),
    pongs=(b"ping payload",),
)
LOOSE_END = refused(frame(LOOSE, CONTINUED), frame(HELLO))
LOOSE_BEGINNING = refused(frame(LOOSE, CONTINUED, fin=False), frame(HELLO))
PINGS_BETWEEN = sound(
    frame(ONE, fin=False),
    frame(TWO, CONTINUED, fin=False),
    frame(b"pongme 1!", PING),
    frame(b"fragment3", CONTINUED, fin=False),
    frame(b"fragment4", CONTINUED, fin=False),
    frame(b"pongme 2!", PING),
    frame(b"fragment5", CONTINUED),
    messages=(BOTH + b"fragment3fragment4fragment5",),
    pongs=(b"pongme 1!", b"pongme 2!"),
)
FRAGMENTS = {
    "5.1": refused(frame(ONE, PING, fin=False), frame(TWO, CONTINUED)),
    "5.2": refused(frame(ONE, PONG, fin=False), frame(TWO, CONTINUED)),
    **dict.fromkeys(("5.3", "5.4", "5.5"), TWO_PARTS),
    **dict.fromkeys(("5.6", "5.7", "5.8"), PING_BETWEEN),
    **dict.fromkeys(("5.9", "5.10", "5.11"), LOOSE_END),
    **dict.fromkeys(("5.12", "5.13", "5.14"), LOOSE_BEGINNING),
    "5.15": refused(
        fragments([ONE, TWO]),
        frame(b"fragment3", CONTINUED, fin=False),
        frame(b"fragment4"),
        messages=(BOTH,),
    ),
    "5.16": refused(*[frame(ONE, CONTINUED, fin=False), fragments([TWO, b"fragment3"])] * 2),
    "5.17": refused(*[frame(ONE, CONTINUED), fragments([TWO, b"fragment3"])] * 2),
    "5.18": refused(frame(ONE, fin=False), frame(TWO)),
    **dict.fromkeys(("5.19", "5.20"), PINGS_BETWEEN),
}

AUTO_FRAGMENTED = {"10.1.1": fragmented(cut(b"*" * 65536, 1300))}
