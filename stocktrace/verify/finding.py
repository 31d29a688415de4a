"""What verification gives: one finding for each thing that is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong: which file, and what; ``repaired`` if it was."""

    session: str
    path: Path
    problem: str
    repaired: bool = False
