from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from stocktrace.importing.merged_coverage import merge_coverage
from stocktrace.intervals import CoverageInterval


def a(start: int, end: int, reason: str = "") -> CoverageInterval:
    return CoverageInterval("X", start, end, reason, "" if reason else "a")


def b(start: int, end: int, reason: str = "") -> CoverageInterval:
    return CoverageInterval("X", start, end, reason, "" if reason else "b")


def test_the_merged_coverage_names_who_listened_and_fills_gaps() -> None:
    first = [a(0, 1, "connecting"), a(1, 10), a(10, 20, "lost"), a(20, 30)]
    second = [b(5, 12), b(12, 15, "gone"), b(15, 40)]
    assert merge_coverage([*first, *second]) == [
        CoverageInterval("X", 0, 1, "connecting"),
        CoverageInterval("X", 1, 5, "", "a"),
        CoverageInterval("X", 5, 10, "", "a + b"),
        CoverageInterval("X", 10, 12, "", "b"),
        CoverageInterval("X", 12, 15, "gone; lost"),
        CoverageInterval("X", 15, 20, "", "b"),
        CoverageInterval("X", 20, 30, "", "a + b"),
        CoverageInterval("X", 30, 40, "", "b"),
    ]


def test_a_ticker_has_no_coverage_while_no_session_subscribed_to_it() -> None:
    assert merge_coverage([a(0, 1), b(2, 3)]) == [
        CoverageInterval("X", 0, 1, "", "a"),
        CoverageInterval("X", 2, 3, "", "b"),
    ]


def test_tickers_are_independent() -> None:
    other = CoverageInterval("Y", 0, 5, "lost")
    assert merge_coverage([other, a(0, 5)]) == [a(0, 5), other]


@st.composite
def coverage(draw: st.DrawFn) -> list[CoverageInterval]:
    found = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        edges = draw(st.lists(st.integers(0, 30), min_size=2, max_size=6, unique=True).map(sorted))
        for start, end in itertools.pairwise(edges):
            lost = draw(st.booleans())
            found.append(
                CoverageInterval("X", start, end, "lost" if lost else "", "" if lost else name)
            )
    return found


@given(coverage())
def test_at_each_moment_the_merge_agrees_with_its_sessions(
    stretches: list[CoverageInterval],
) -> None:
    found = merge_coverage(stretches)
    for moment in range(31):
        here = [each for each in stretches if each.start <= moment < each.end]
        told = [each for each in found if each.start <= moment < each.end]
        listening = sorted({each.sources for each in here if not each.reason})
        assert len(told) == bool(here)
        if told:
            assert told[0].sources == " + ".join(listening)
            assert bool(told[0].reason) is not bool(listening)
    assert all(one.end <= two.start for one, two in itertools.pairwise(found))
