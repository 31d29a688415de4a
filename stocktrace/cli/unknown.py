"""Tickers that were asked for and never recorded, in a sentence with those that were."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

# Names in a sentence, at most: of what was recorded, and of what is meant perhaps.
_LISTED = 10
_NEAR = 3


def unknown_tickers(place: str | Path, tickers: Sequence[str]) -> tuple[list[str], str]:
    """Those of ``tickers`` that were never recorded at ``place``, and the sentence that says so.

    Give only tickers of which nothing was found: what was recorded is looked at for them.
    """
    if not tickers:
        return [], ""

    from stocktrace.store.shelf import shelf_of
    from stocktrace.summary import never_recorded

    unknown, known = never_recorded(shelf_of(place), tickers)
    if not unknown:
        return [], ""
    words = [f"Unknown ticker{'s' if len(unknown) > 1 else ''} {_listed(map(repr, unknown))}."]
    words.append(
        f"Recorded tickers: {_listed(sorted(known))}."
        if known
        else f"Nothing was recorded in {place} yet."
    )
    near = dict.fromkeys(name for ticker in unknown for name in near_names(ticker, known))
    if near:
        words.append(f"Did you mean {', '.join(list(near)[:_LISTED])}?")
    return unknown, " ".join(words)


def near_names(ticker: str, known: Collection[str]) -> list[str]:
    """Which of ``known`` may be meant by ``ticker``, the nearest first.

    Case does not matter, and BTCUSDT may mean BINANCE:BTCUSDT.
    """
    asked = ticker.upper()
    names: dict[str, list[str]] = {}
    for name in sorted(known):
        names.setdefault(name.upper(), []).append(name)
    same = [name for name in names if asked in (name, name.rpartition(":")[2])]
    like = difflib.get_close_matches(asked, names, _NEAR)
    return [each for name in dict.fromkeys([*same, *like]) for each in names[name]][:_NEAR]


def _listed(names: Iterable[str]) -> str:
    first, more = list(names), 0
    if len(first) > _LISTED:
        first, more = first[:_LISTED], len(first) - _LISTED
    return ", ".join(first) + (f" and {more:,} more" if more else "")
