from __future__ import annotations

from typing import Any

import pytest

from stocktrace.marks import (
    ConnectedMark,
    CoveredMark,
    DisconnectedMark,
    EndedMark,
    GapMark,
    LagMark,
    Mark,
    OpeningMark,
    PausedMark,
    RefusedMark,
    SubscriptionMark,
    UnknownMark,
    parse_mark,
)

MARKS: list[tuple[Mark, str, dict[str, Any]]] = [
    (
        OpeningMark(1, session="s", connected=True, tickers=("A",)),
        "tape",
        {"session": "s", "connected": True, "tickers": ("A",)},
    ),
    (
        OpeningMark(1, connected=False, tickers=(), imported={"source": "x"}),
        "tape",
        {"connected": False, "tickers": (), "imported": {"source": "x"}},
    ),
    (ConnectedMark(1, ("A", "B")), "connected", {"tickers": ("A", "B")}),
    (DisconnectedMark(1, "lost"), "disconnected", {"reason": "lost"}),
    (LagMark(2, 14), "lag", {"lag": 14}),
    (GapMark(2, 1, "lost"), "gap", {"start": 1, "reason": "lost"}),
    (GapMark(9, 1, "lost", 7), "gap", {"start": 1, "reason": "lost", "lag": 7}),
    (
        DisconnectedMark(9, "lost", 1, 7),
        "disconnected",
        {"reason": "lost", "start": 1, "lag": 7},
    ),
    (PausedMark(2, 1, "stalled"), "paused", {"start": 1, "reason": "stalled"}),
    (SubscriptionMark(1, ("A",), ()), "subscription", {"added": ("A",), "removed": ()}),
    (RefusedMark(1, ("A",), "no"), "refused", {"tickers": ("A",), "text": "no"}),
    (
        CoveredMark(3, "A", 1, 2, "", "s"),
        "covered",
        {"ticker": "A", "start": 1, "end": 2, "reason": "", "sources": "s"},
    ),
    (EndedMark(1), "ended", {}),
    (UnknownMark(1, "gap", {"start": "x"}), "gap", {"start": "x"}),
    (UnknownMark(1, "weather", {"rain": True}), "weather", {"rain": True}),
]


@pytest.mark.parametrize(("mark", "name", "facts"), MARKS)
def test_a_mark_is_its_name_and_its_facts(mark: Mark, name: str, facts: dict[str, Any]) -> None:
    assert (mark.name, list(mark.facts.items())) == (name, list(facts.items()))
    assert parse_mark(mark.stamp, name, facts) == mark


def test_facts_that_a_known_mark_does_not_have_are_ignored() -> None:
    assert parse_mark(1, "ended", {"stamp": 9, "mark": "gap", "why": "tired"}) == EndedMark(1)


@pytest.mark.parametrize(
    ("name", "facts", "damaged"),
    [("connected", {}, True), ("tape", {"tickers": []}, True), ("weather", {}, False)],
)
def test_a_damaged_mark_has_a_known_name_and_other_facts(
    name: str, facts: dict[str, Any], damaged: bool
) -> None:
    mark = parse_mark(1, name, facts)
    assert isinstance(mark, UnknownMark)
    assert mark.is_damaged == damaged
