from __future__ import annotations

from stocktrace.feed.rival import SHORT_LIFE_S, SHORT_LIVES, Rival


def test_so_many_short_lives_in_a_row_are_suspicious_and_told_once():
    rival = Rival()
    told = [rival.suspected(SHORT_LIFE_S - 0.1) for _ in range(SHORT_LIVES + 2)]
    assert [one is not None for one in told] == [
        *[False] * (SHORT_LIVES - 1), True, False, False,
    ]  # fmt: skip


def test_a_longer_life_allays_the_suspicion():
    rival = Rival()
    lives = [*[0.0] * (SHORT_LIVES - 1), SHORT_LIFE_S, *[0.0] * (SHORT_LIVES - 1)]
    assert not any(map(rival.suspected, lives))
    assert rival.suspected(0.0) is not None
