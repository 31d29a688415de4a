"""Counts, durations and untrusted text in sentences."""

from __future__ import annotations


def count_of(count: int, thing: str) -> str:
    """``1 gap``, ``2 gaps``, ``1,882 trades``."""
    return f"{count:,} {thing}" if count == 1 else f"{count:,} {thing}s"


def format_duration(seconds: float) -> str:
    """``0.018 s``, ``12.3 s``."""
    return f"{seconds:.3f} s" if 0 < seconds < 1 else f"{seconds:,.1f} s"


def describe_lag(ns: int) -> str:
    """``14.1 s``."""
    return f"{ns / 1e9:.1f} s"


def describe_gaps(count: int, seconds: float, connecting: int) -> str:
    """``2 gaps (1.2 s), 1 of them connecting``: their number and total length."""
    gaps = f"{count_of(count, 'gap')} ({format_duration(seconds)})"
    if not connecting:
        return gaps
    return f"{gaps}, {'' if connecting == count else f'{connecting} of them '}connecting"


def format_clock(seconds: float) -> str:
    """``01:23:45``."""
    whole = int(seconds + 0.5)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}"


def printable(text: str) -> str:
    """Replace the characters of untrusted text that could control a terminal or begin a line."""
    return "".join(character if character.isprintable() else "?" for character in text)


def encodable(text: str) -> str:
    """Escape what UTF-8 cannot encode: a file name may hold bytes that are not text."""
    return text.encode("utf-8", "backslashreplace").decode()
