"""Section 9: large messages, in few and in many pieces, and many small ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tests.feed.conftest import BINARY, TEXT, cut
from tests.feed.rfc6455.case import BULK, Case, fragments, sound


@dataclass(frozen=True, slots=True)
class Bulk:
    """Messages that are made when they are needed."""

    opcode: int
    size: int
    fragment: int = 0
    chop: int = 0
    count: int = 1

    def case(self) -> Case:
        payload = (BULK * (self.size // len(BULK) + 1))[: self.size]
        parts = cut(payload, self.fragment) if self.fragment else [payload]
        sent = fragments(parts, self.opcode) * self.count
        return sound(sent, messages=(payload,) * self.count)


MB = 1 << 20
BULKS = {
    f"9.{section + binary}.{at}": replace(bulk, opcode=(TEXT, BINARY)[binary])
    for section, bulks in {
        1: [Bulk(0, size) for size in (MB >> 4, MB >> 2, MB, 4 * MB, 8 * MB, 16 * MB)],
        3: [Bulk(0, 4 * MB, fragment=64 << 2 * at) for at in range(9)],
        5: [Bulk(0, MB, chop=64 << at) for at in range(6)],
        7: [Bulk(0, size, count=1000) for size in (0, 16, 64, 256, 1024, 4096)],
    }.items()
    for binary in (0, 1)
    for at, bulk in enumerate(bulks, 1)
}
