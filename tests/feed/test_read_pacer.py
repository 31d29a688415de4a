from __future__ import annotations

from stocktrace.feed.socket import GATHER_INTERVAL_S, ReadPacer


def waits(pace: ReadPacer, begin: float, seconds: float, every: float, size: int) -> list[float]:
    """What it says after reads of ``size`` bytes each."""
    return [pace.delay_after(size, begin + n * every) for n in range(round(seconds / every))]


def test_reads_of_a_quiet_connection_are_not_delayed() -> None:
    assert set(waits(ReadPacer(0.0), 0.0, 10.0, 0.01, 700)) == {0.0}


def test_two_frames_close_to_each_other_do_not_make_a_connection_busy() -> None:
    pace = ReadPacer(0.0)
    assert [pace.delay_after(1_000, at) for at in (5.0, 5.0001, 5.0002, 5.06)] == [0.0] * 4


def test_reads_of_a_busy_connection_are_delayed_until_it_is_quiet_again() -> None:
    pace = ReadPacer(0.0)
    busy = waits(pace, 0.0, 1.0, 0.001, 7_000)
    assert busy[:40] == [0.0] * 40
    assert set(busy[60:]) == {GATHER_INTERVAL_S}
    quiet = waits(pace, 1.0, 1.0, 0.001, 70)
    assert set(quiet[110:]) == {0.0}


def test_many_small_frames_are_as_busy_as_few_large_ones() -> None:
    assert waits(ReadPacer(0.0), 0.0, 1.0, 0.00005, 75)[-1] == GATHER_INTERVAL_S


def test_after_a_read_that_did_not_drain_the_socket_the_next_is_not_delayed() -> None:
    """However little it brought: a read of TLS may be a record."""
    pace = ReadPacer(0.0)
    waits(pace, 0.0, 1.0, 0.001, 7_000)
    assert [pace.delay_after(7_000, 1.0, drained=drained) for drained in (True, False)] == [
        GATHER_INTERVAL_S,
        0.0,
    ]


def test_after_a_silence_the_first_read_is_not_delayed() -> None:
    pace = ReadPacer(0.0)
    waits(pace, 0.0, 1.0, 0.001, 7_000)
    assert pace.delay_after(7_000, 60.0) == 0.0
