"""The client cases of the Autobahn test suite (25.10.1): what its server sends, what must come.

The numbers are the suite's, and so are the bytes. ``verdict`` is its word for what the socket
does; ``python -m tests.autobahn`` asks the suite itself.
"""

from __future__ import annotations

from tests.feed.rfc6455.beyond import BEYOND
from tests.feed.rfc6455.bulk import BULKS
from tests.feed.rfc6455.case import KEPT, REFUSED, Case
from tests.feed.rfc6455.ends import ENDS
from tests.feed.rfc6455.framing import (
    AUTO_FRAGMENTED,
    FRAGMENTS,
    FRAMING,
    PINGS,
    RESERVED_BITS,
    RESERVED_OPCODES,
)
from tests.feed.rfc6455.utf8 import UTF8

CASES = {
    **FRAMING,
    **PINGS,
    **RESERVED_BITS,
    **RESERVED_OPCODES,
    **FRAGMENTS,
    **UTF8,
    **ENDS,
    **AUTO_FRAGMENTED,
}

__all__ = ["BEYOND", "BULKS", "CASES", "KEPT", "REFUSED", "Case"]
