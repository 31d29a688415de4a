"""What the suite does not send to a client."""

from __future__ import annotations

import struct

from tests.feed.conftest import BINARY, CLOSE, CONTINUED, PING, PONG, close, frame
from tests.feed.rfc6455.case import HELLO, ONE, RAW, TWO, closing, fragments, refused, sound
from tests.feed.rfc6455.framing import spoilt

BEYOND = {
    "masked text": refused(frame(HELLO, masked=True)),
    "masked, empty": refused(frame(b"", masked=True)),
    "masked binary of 65536": refused(frame(bytes(65536), BINARY, masked=True)),
    "masked ping": spoilt(frame(b"", PING, masked=True)),
    "masked close": refused(frame(b"", CLOSE, masked=True)),
    "masked fragment": refused(frame(ONE, fin=False), frame(TWO, CONTINUED, masked=True)),
    "pong of 126": refused(frame(bytes(126), PONG)),
    "close in fragments": refused(frame(b"", CLOSE, fin=False), frame(b"", CONTINUED)),
    "reserved bit in a fragment": refused(frame(ONE, fin=False), frame(TWO, CONTINUED, reserved=4)),
    "length 2^63": refused(struct.pack("!BBQ", 0x81, 127, 1 << 63)),
    "lengths longer than need be": sound(
        b"\x81\x7e\x00\x02ab\x81\x7f" + bytes(7) + b"\x02cd", messages=(b"ab", b"cd")
    ),
    "pongs of 0 to 125": sound(*(frame(bytes(size), PONG) for size in range(126))),
    "pings of 0 to 125": sound(
        *(frame(bytes(size), PING) for size in range(126)),
        pongs=tuple(bytes(size) for size in range(126)),
    ),
    "binary in fragments": sound(fragments([RAW, b"", RAW], BINARY), messages=(RAW + RAW,)),
    "close 1012 to 1014": closing(close(1014), told="(1014)"),
}
