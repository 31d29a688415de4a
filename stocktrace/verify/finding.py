"""A result of verification."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """A mismatch: the file, the problem, and whether it was repaired."""

    session: str
    path: Path
    problem: str
    repaired: bool = False
