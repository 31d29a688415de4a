from __future__ import annotations

import pytest

from stocktrace.text import count_of, describe_gaps, format_clock, printable


def test_a_count_of_one_is_singular() -> None:
    assert [count_of(number, "gap") for number in (0, 1, 2000)] == ["0 gaps", "1 gap", "2,000 gaps"]


@pytest.mark.parametrize(
    ("gaps", "sentence"),
    [
        ((0, 0.0, 0), "0 gaps (0.0 s)"),
        ((1, 0.018, 1), "1 gap (0.018 s), connecting"),
        ((2, 1.05, 1), "2 gaps (1.1 s), 1 of them connecting"),
        ((1, 3600.0, 0), "1 gap (3,600.0 s)"),
    ],
)
def test_gaps_while_connecting_are_counted(gaps: tuple[int, float, int], sentence: str) -> None:
    assert describe_gaps(*gaps) == sentence


def test_a_clock_shows_hours_minutes_and_seconds() -> None:
    assert [format_clock(seconds) for seconds in (0, 59.6, 3661, 90_000)] == [
        "00:00:00",
        "00:01:00",
        "01:01:01",
        "25:00:00",
    ]


def test_untrusted_text_does_not_control_a_terminal() -> None:
    assert printable("a\x1b[2J\nb é") == "a?[2J?b é"
