"""The capture: one feed, its recorder, a deadline; gives back the report."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timedelta

from stocktrace.deadline import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import UsageError, is_usage
from stocktrace.live.handle import Handle
from stocktrace.live.publishing import Publisher, Result
from stocktrace.live.run import Run
from stocktrace.live.turn import taken
from stocktrace.quantities import parse_duration
from stocktrace.record.delivery import deliver
from stocktrace.record.publish import publish
from stocktrace.report import Report
from stocktrace.settings import OFF, Settings
from stocktrace.status import Status
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import Part
from stocktrace.trade import parse_tickers


def capture(  # noqa: PLR0913 - keyword arguments with defaults, all of one call
    tickers: str | Sequence[str],
    *,
    lasting: timedelta | float | str | None = None,
    until: datetime | None = None,
    settings: Settings | None = None,
    publisher: Publisher | None = None,
    watch: Callable[[Status], None] | None = None,
    handle: Handle | None = None,
    guard: AbstractContextManager[object] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> Report:
    """Record the trades of ``tickers`` for a bounded time.

    Args:
        tickers: Finnhub symbols, such as ``AAPL`` or ``BINANCE:BTCUSDT``.
        lasting: How long; seconds, a ``timedelta`` or ``"30m"``.
        until: When to end instead (aware).
        settings: All else; by default from the environment and ``.env``.
        publisher: Publishes each rolled window in the background; by default a thread of ours.
        watch: Called about twice a second, on the calling thread.
        handle: Stops or retargets the capture from another thread.
        guard: Held while there is a connection, after the host's own lock: for who must see to it
            that no other machine uses the key, either.
        clock: The clocks; tests bring their own.

    Returns:
        The report; ``state`` is ``complete``, or ``interrupted`` if ``handle`` stopped it.

    Raises:
        UsageError: a ticker, a time or a setting is wrong; nothing was made or changed.
        KeyInUse: another capture uses the key, and did not end within ``wait_for_key``.
        KeyRefused: the server does not know the key.
        StocktraceError: the capture failed; what was received is on disk, the report says why.
    """
    settings = settings or Settings.load()
    wanted = parse_tickers(tickers)
    key = settings.key()
    _deadline(lasting, until, clock)
    layout = Layout.of(settings)
    handle = handle or Handle()
    # Until the feed has ended the key is ours; what is published then needs no connection.
    with contextlib.ExitStack() as connection:
        turn = connection.enter_context(taken(key, settings, handle.stopping, clock))
        connection.enter_context(guard or contextlib.nullcontext())
        # Given back before the key is: whoever takes over answers at the same address.
        tell = connection.enter_context(_metrics(settings, clock))
        deadline = _deadline(lasting, until, clock)  # time may have passed while it waited
        _make_folder(layout)
        with lock.held(layout.lock(turn.session), {"session": turn.session}):
            run = Run(layout, turn, wanted, key, settings, deadline, clock)
            with contextlib.nullcontext(publisher) if publisher else _background() as publishing:
                watches = [tell, *([watch] if watch else [])]
                report = run(publishing, _each(watches), handle, connection)
            deliver(layout, report, clock)
            return report


def _deadline(
    lasting: timedelta | float | str | None, until: datetime | None, clock: Clock
) -> Deadline:
    if (lasting is None) == (until is None):
        raise UsageError("Say how long: lasting (--for 30m) or until (--until 16:00), one of them.")
    if until is None:
        return Deadline.after(parse_duration(lasting), clock)
    if until.tzinfo is None:
        raise UsageError("until needs a time zone.")
    deadline = Deadline.at(int(until.timestamp() * 1e9), clock)
    if deadline.passed():
        raise UsageError(f"until {until:%Y-%m-%d %H:%M:%S %Z} has passed: give a later time.")
    return deadline


def _metrics(settings: Settings, clock: Clock) -> AbstractContextManager[Callable[[Status], None]]:
    """Whom to tell each status; answers at the address that is set, if one is."""
    if settings.metrics == OFF:
        return contextlib.nullcontext(lambda _: None)

    from stocktrace.live.endpoint import serving

    return serving(settings, clock)


def _each(watches: Sequence[Callable[[Status], None]]) -> Callable[[Status], None]:
    def watch(status: Status) -> None:
        for one in watches:
            one(status)

    return watch


def _make_folder(layout: Layout) -> None:
    with files.telling(layout.root):
        try:
            layout.sessions.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=layout.sessions).close()
        except OSError as error:
            if not is_usage(error):
                raise
            raise UsageError(
                f"Cannot write to the data folder {layout.root} ({error.strerror}): "
                "give another one with --data-dir."
            ) from error


@contextlib.contextmanager
def _background() -> Iterator[Publisher]:
    """A publisher on one thread: conversion must not compete with the feed for two cores."""
    executor = ThreadPoolExecutor(1, "stocktrace-publish")

    def submit(layout: Layout, part: Part, *, whole: bool) -> Result:
        return executor.submit(publish, layout, part, whole=whole)

    try:
        yield submit
    finally:
        # After an orderly end nothing is pending; after an interruption the rest can wait: sealed
        # segments are found by the next capture, or by `stocktrace convert`.
        executor.shutdown(cancel_futures=True)
