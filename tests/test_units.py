from __future__ import annotations

import re
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stocktrace.errors import SettingsError
from stocktrace.units import (
    DURATION,
    KEEP,
    PATIENCE,
    parse_duration,
    parse_keep,
    parse_patience,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("30s", 30.0),
        ("10m", 600.0),
        ("1h30m", 5400.0),
        ("1.5h", 5400.0),
        ("2d", 172_800.0),
        ("250ms", 0.25),
        ("1s500ms", 1.5),
        ("1ms", 0.001),
        ("366d", 366 * 86_400.0),
        (90, 90.0),
        (0.5, 0.5),
        (timedelta(minutes=1, milliseconds=5), 60.005),
    ],
)
def test_a_duration_is_parsed_to_seconds(text: object, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text",
    ["", "s", "10", "10 s", " 10s", "10s ", "-10s", "+10s", "1e3s", "10M", "1w", "10s,", None],
)
def test_an_invalid_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(SettingsError, match="is not a duration: write it like 30s"):
        parse_duration(text)


@pytest.mark.parametrize(
    "text",
    ["0s", "0.1ms", "366.1d", f"{'9' * 400}d", 0, -1, 1e9, float("nan"), float("inf"),
     timedelta(0), timedelta(seconds=-1)],
)  # fmt: skip
def test_a_duration_that_is_too_short_or_too_long_is_refused(text: object) -> None:
    with pytest.raises(SettingsError, match="is not a duration between 1ms and 366d"):
        parse_duration(text)


@given(st.integers(0, 300), st.integers(0, 23), st.integers(0, 59), st.integers(1, 59))
def test_a_duration_is_the_sum_of_its_pieces(days: int, hours: int, minutes: int, s: int) -> None:
    whole = timedelta(days=days, hours=hours, minutes=minutes, seconds=s)
    assert parse_duration(f"{days}d{hours}h{minutes}m{s}s") == whole.total_seconds()
    assert parse_duration(whole) == whole.total_seconds()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("1B", 1),
        ("2KB", 2_000),
        ("64MB", 64_000_000),
        ("64 mb", 64_000_000),
        ("1.5GB", 1_500_000_000),
        ("1.9", 1),
        (128_000_000, 128_000_000),
        ("1000000000GB", 10**18),
    ],
)
def test_a_size_is_parsed_to_bytes(text: object, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "MB", "-1", "1 TB", "1MiB", "1M", "1  MB", "1MB ", "1e3", "\u0661", "1\u212ab", None],
)
def test_an_invalid_size_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(SettingsError, match="is not a size: write it like 64MB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["1000000001GB", "9" * 400, 10**19])
def test_a_size_larger_than_any_file_is_refused(text: object) -> None:
    with pytest.raises(SettingsError, match="is too large: use at most 1000000000 GB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["0", "0s", "0.0", "0m", "0h", 0, 0.0])
def test_patience_can_be_zero(text: object) -> None:
    assert parse_patience(text) == parse_keep(text) == 0.0


def test_only_a_retention_can_be_forever() -> None:
    assert parse_keep("forever") is None
    with pytest.raises(SettingsError, match="'forever' is not a duration"):
        parse_patience("forever")


def test_the_patterns_of_forms_match_the_parsers() -> None:
    texts = ("30s", "1h30m", "0", "0s", "0.0", "forever", "", "10", "10 s", "1w", "-1s")
    taken = {
        pattern: [text for text in texts if re.fullmatch(pattern, text)]
        for pattern in (DURATION, PATIENCE, KEEP)
    }
    assert taken == {
        DURATION: ["30s", "1h30m", "0s"],  # too short, but one
        PATIENCE: ["30s", "1h30m", "0", "0s", "0.0"],
        KEEP: ["30s", "1h30m", "0", "0s", "0.0", "forever"],
    }
