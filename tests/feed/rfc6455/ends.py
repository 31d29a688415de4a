"""Section 7: how a connection is closed."""

from __future__ import annotations

from dataclasses import replace

from tests.feed.conftest import CLOSE, CONTINUED, PING, close, frame
from tests.feed.rfc6455.case import BULK, EITHER, KEPT, ONE, TWO, WORLD, closing, refused, text
from tests.feed.rfc6455.utf8 import EDITED, KOSME

VALID_CODES = (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)
INVALID_CODES = (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999)
ENDS = {
    "7.1.1": text(WORLD),
    "7.1.2": closing(close(1000), frame(b"", CLOSE)),
    "7.1.3": closing(close(1000), frame(b"", PING)),
    "7.1.4": closing(close(1000), frame(WORLD)),
    "7.1.5": closing(frame(ONE, fin=False), close(1000), frame(TWO, CONTINUED)),
    "7.1.6": replace(
        closing(frame(BULK), frame(WORLD), close(1000), frame(b"", PING), messages=(BULK, WORLD)),
        verdict=EITHER,
    ),
    "7.3.1": closing(frame(b"", CLOSE), told="(1005)"),
    "7.3.2": refused(frame(b"a", CLOSE)),
    "7.3.3": closing(close(1000)),
    "7.3.4": closing(close(1000, WORLD), told="(1000 Hello World!)"),
    "7.3.5": closing(close(1000, b"*" * 123), told=f"(1000 {'*' * 123})"),
    "7.3.6": refused(close(1000, b"*" * 124)),
    "7.5.1": replace(
        closing(close(1000, EDITED), told=f"(1000 {KOSME.decode()}\ufffd\ufffd\ufffdedited)"),
        verdict=KEPT,
    ),
    **{
        f"7.7.{at}": closing(close(code), told=f"({code})")
        for at, code in enumerate(VALID_CODES, 1)
    },
    **{f"7.9.{at}": refused(close(code)) for at, code in enumerate(INVALID_CODES, 1)},
    "7.13.1": replace(refused(close(5000)), verdict=EITHER),
    "7.13.2": replace(refused(close(65535)), verdict=EITHER),
}
