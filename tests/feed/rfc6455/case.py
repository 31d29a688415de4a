"""A case: what a server sends, and what must come of it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.feed.conftest import CONTINUED, TEXT, close, frame

#: The word for a server that does not keep to RFC 6455: the connection is given up.
REFUSED = "refused"
NORMAL = "closed by the server (1000)"

#: Against broken UTF-8 the suite wants the connection closed (1007); see docs/reliability.md.
KEPT = "FAILED"
#: The suite takes either of several behaviours.
EITHER = "INFORMATIONAL"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes of a server; the messages in them, the pongs they ask for, and how it ends."""

    sent: bytes
    messages: tuple[bytes, ...] = ()
    pongs: tuple[bytes, ...] = ()
    end: str = NORMAL
    verdict: str = "OK"


def sound(*frames: bytes, messages: tuple[bytes, ...] = (), pongs: tuple[bytes, ...] = ()) -> Case:
    """Frames that are borne; then the server closes in order."""
    return Case(b"".join(frames) + close(1000), messages, pongs)


def refused(*frames: bytes, messages: tuple[bytes, ...] = ()) -> Case:
    return Case(b"".join(frames), messages, end=REFUSED)


def closing(*frames: bytes, told: str = "(1000)", messages: tuple[bytes, ...] = ()) -> Case:
    """The server closes in the middle of it; nothing counts after that."""
    return Case(b"".join(frames), messages, end=f"closed by the server {told}")


def text(payload: bytes) -> Case:
    """A text message, which need not be UTF-8."""
    try:
        payload.decode()
    except UnicodeDecodeError:
        return replace(sound(frame(payload), messages=(payload,)), verdict=KEPT)
    return sound(frame(payload), messages=(payload,))


def fragments(payloads: list[bytes], opcode: int = TEXT) -> bytes:
    """One message in these fragments."""
    last = len(payloads) - 1
    return b"".join(
        frame(part, CONTINUED if at else opcode, fin=at == last) for at, part in enumerate(payloads)
    )


def fragmented(payloads: list[bytes]) -> Case:
    whole = b"".join(payloads)
    return replace(text(whole), sent=fragments(payloads) + close(1000))


HELLO, WORLD = b"Hello, world!", b"Hello World!"
RAW = b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"
ONE, TWO, BOTH = b"fragment1", b"fragment2", b"fragment1fragment2"
BULK = b"BAsd7&jh23" * 26214 + b"BAsd"  # 256 KiB
