"""Section 6: text messages, whole and in fragments, that are UTF-8 or are not."""

from __future__ import annotations

from tests.feed.conftest import cut
from tests.feed.rfc6455.case import fragmented, text

KOSME = bytes.fromhex("cebae1bdb9cf83cebcceb5")  # a Greek word
EDITED = KOSME + b"\xed\xa0\x80edited"
BEYOND_UNICODE = KOSME + b"\xf4\x90\x80\x80edited"
GREETING = "Hello-µ@ßöäüàá-UTF-8!!".encode()


def octets(payload: bytes) -> list[bytes]:
    """Fragments of an octet; the suite ends them with an empty one."""
    return [*cut(payload, 1), b""]


# Sections 6.5 to 6.23: text messages of these bytes, in hexadecimal.
SEQUENCES = {
    5: "68656c6c6f24776f726c64 68656c6c6fc2a2776f726c64 68656c6c6fe282ac776f726c64"
    " 68656c6c6ff0a4ada2776f726c64 cebae1bdb9cf83cebcceb5",
    6: " ".join(KOSME[:size].hex() for size in range(1, len(KOSME) + 1)),
    7: "00 c280 e0a080 f0908080",
    8: "f888808080 fc8480808080",
    9: "7f dfbf efbfbf f48fbfbf",
    10: "f7bfbfbf fbbfbfbfbf fdbfbfbfbfbf",
    11: "ed9fbf ee8080 efbfbd f48fbfbf f4908080",
    12: "80 bf 80bf 80bf80 80bf80bf 80bf80bf80 80bf80bf80bf " + bytes(range(0x80, 0xBF)).hex(),
    13: " ".join(
        b"".join(b"%c " % byte for byte in range(*span)).hex()
        for span in ((0xC0, 0xDF), (0xE0, 0xEF), (0xF0, 0xF7), (0xF8, 0xFB), (0xFC, 0xFD))
    ),
    14: "c0 e080 f08080 f8808080 fc80808080 df efbf f7bfbf fbbfbfbf fdbfbfbfbf",
    15: "c0e080f08080f8808080fc80808080dfefbff7bfbffbbfbfbffdbfbfbfbf",
    16: "fe ff fefeffff",
    17: "c0af e080af f08080af f8808080af fc80808080af",
    18: "c1bf e09fbf f08fbfbf f887bfbfbf fc83bfbfbfbf",
    19: "c080 e08080 f0808080 f880808080 fc8080808080",
    20: "eda080 edadbf edae80 edafbf edb080 edbe80 edbfbf",
    21: "eda080edb080 eda080edbfbf edadbfedb080 edadbfedbfbf"
    " edae80edb080 edae80edbfbf edafbfedb080 edafbfedbfbf",
    22: " ".join(
        chr(plane << 16 | last).encode().hex() for plane in range(17) for last in (0xFFFE, 0xFFFF)
    ),
    23: "efbfb9 efbfba efbfbb efbfbc efbfbd efbfbe efbfbf",
}
UTF8 = {
    "6.1.1": text(b""),
    "6.1.2": fragmented([b"", b"", b""]),
    "6.1.3": fragmented([b"", b"middle frame payload", b""]),
    "6.2.1": text(GREETING),
    "6.2.2": fragmented([GREETING[:15], GREETING[15:]]),
    "6.2.3": fragmented(octets(GREETING)),
    "6.2.4": fragmented(octets(KOSME)),
    "6.3.1": text(EDITED),
    "6.3.2": fragmented(octets(EDITED)),
    "6.4.1": fragmented([KOSME, BEYOND_UNICODE[11:15], b"edited"]),
    "6.4.2": fragmented([BEYOND_UNICODE[:12], BEYOND_UNICODE[12:13], BEYOND_UNICODE[13:]]),
    **dict.fromkeys(("6.4.3", "6.4.4"), fragmented([BEYOND_UNICODE, b""])),
    **{
        f"6.{section}.{at}": text(bytes.fromhex(payload))
        for section, payloads in SEQUENCES.items()
        for at, payload in enumerate(payloads.split(" "), 1)
    },
}
