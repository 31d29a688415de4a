from __future__ import annotations

from stocktrace.feed.reconnect import SHORT_CONNECTION_S, SHORT_CONNECTIONS, SharedKeyDetector


def test_so_many_short_lives_in_a_row_are_suspicious_and_told_once():
    rival = SharedKeyDetector()
    told = [rival.connection_ended(SHORT_CONNECTION_S - 0.1) for _ in range(SHORT_CONNECTIONS + 2)]
    assert [one is not None for one in told] == [
        *[False] * (SHORT_CONNECTIONS - 1), True, False, False,
    ]  # fmt: skip


def test_a_longer_life_allays_the_suspicion():
    rival = SharedKeyDetector()
    lives = [*[0.0] * (SHORT_CONNECTIONS - 1), SHORT_CONNECTION_S, *[0.0] * (SHORT_CONNECTIONS - 1)]
    assert not any(map(rival.connection_ended, lives))
    assert rival.connection_ended(0.0) is not None
