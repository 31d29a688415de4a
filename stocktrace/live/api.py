"""``capture``: records tickers for a bounded time and returns the report."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from functools import partial

import pyarrow as pa

from stocktrace.addresses import OFF
from stocktrace.clock import SYSTEM_CLOCK, Clock, Deadline
from stocktrace.errors import UsageError, is_usage
from stocktrace.live.control import CaptureControl
from stocktrace.live.key_lock import wait_for_key
from stocktrace.live.publishing import Publisher, PublishFuture
from stocktrace.live.session import CaptureSession
from stocktrace.record.publish import publish_window, upload_session
from stocktrace.sessions.catalog import check_other_hosts
from stocktrace.sessions.report import SessionReport
from stocktrace.sessions.status import CaptureStatus
from stocktrace.settings import Settings
from stocktrace.store import files, lock
from stocktrace.store.layout import Layout
from stocktrace.store.names import WindowId
from stocktrace.trade import parse_tickers
from stocktrace.units import epoch_ns, parse_duration


def capture(  # noqa: PLR0913 - keyword arguments with defaults, all of one call
    tickers: str | Sequence[str],
    *,
    duration: timedelta | float | str | None = None,
    until: datetime | None = None,
    settings: Settings | None = None,
    publisher: Publisher | None = None,
    on_status: Callable[[CaptureStatus], None] | None = None,
    control: CaptureControl | None = None,
    guard: AbstractContextManager[object] | None = None,
    clock: Clock = SYSTEM_CLOCK,
) -> SessionReport:
    """Record the trades of ``tickers`` for a bounded time.

    Args:
        tickers: Finnhub symbols, such as ``AAPL`` or ``BINANCE:BTCUSDT``.
        duration: How long to record: seconds, a ``timedelta`` or ``"30m"``.
        until: When to end instead (aware).
        settings: All other settings. Defaults to the environment and ``.env``.
        publisher: Publishes each rolled window in the background. Defaults to a thread.
        on_status: Called about twice a second, on the calling thread.
        control: Stops the capture or changes its tickers from another thread.
        guard: Held while there is a connection, after the key lock of this host: to keep other
            machines from using the key.
        clock: The clocks. Tests pass their own.

    Returns:
        The report; ``state`` is ``complete``, or ``interrupted`` if ``control`` stopped it.

    Raises:
        UsageError: a ticker, a time or a setting is wrong; nothing was created or changed.
        KeyInUse: another capture uses the key, and did not end within ``wait_for_key``.
        KeyRefused: the server does not accept the key.
        StocktraceError: the capture failed. Everything received is on disk; the report says why.
    """
    settings = settings or Settings.load()
    names = parse_tickers(tickers)
    key = settings.key()
    _deadline(duration, until, clock)
    layout = Layout.from_settings(settings)
    control = control or CaptureControl()
    # The key is held until the feed has ended: publishing the rest needs no connection.
    with contextlib.ExitStack() as connection:
        holder = connection.enter_context(wait_for_key(key, settings, control.stopping, clock))
        connection.enter_context(guard or contextlib.nullcontext())
        listeners: list[Callable[[CaptureStatus], None]] = []
        if settings.metrics != OFF:
            from stocktrace.live.metrics import serve_metrics

            # Closed before the key is released: the next capture answers at the same address.
            listeners.append(connection.enter_context(serve_metrics(settings, clock)))
        if on_status is not None:
            listeners.append(on_status)
        deadline = _deadline(duration, until, clock)  # it may have passed during the wait
        _check_data_dir(layout)
        check_other_hosts(layout)
        with (
            contextlib.closing(files.OpenFolder(layout.root)) as folder,
            lock.hold_lock(layout.lock(holder.session), {"session": holder.session}),
        ):
            run = CaptureSession(
                layout, holder, names, key, settings, deadline, clock, folder=folder
            )
            with (
                contextlib.nullcontext(publisher)
                if publisher
                else _publisher_thread(run) as publish,
                tune_memory(),
            ):
                report = run(publish, listeners, control, connection)
            upload_session(layout, report, clock)
            return report


def _deadline(
    duration: timedelta | float | str | None, until: datetime | None, clock: Clock
) -> Deadline:
    if (duration is None) == (until is None):
        raise UsageError("Set a duration (--for 30m) or an end time (--until 16:00), not both.")
    if until is None:
        return Deadline.after(parse_duration(duration), clock)
    if until.tzinfo is None:
        raise UsageError("until needs a time zone.")
    deadline = Deadline.at(epoch_ns(until), clock)
    if deadline.passed():
        raise UsageError(f"until {until:%Y-%m-%d %H:%M:%S %Z} has passed: set a later time.")
    return deadline


def _check_data_dir(layout: Layout) -> None:
    with files.disk_errors(layout.root):
        try:
            files.make_folder(layout.sessions)
            tempfile.TemporaryFile(dir=layout.sessions).close()
            for source, target in layout.renames:
                files.check_rename(source, target)
        except OSError as error:
            if not is_usage(error):
                raise
            raise UsageError(
                f"Cannot write to the data folder {layout.root} ({error.strerror}): "
                "name another one with --data-dir."
            ) from error


@contextlib.contextmanager
def _publisher_thread(run: CaptureSession) -> Iterator[Publisher]:
    """Publish on one thread: conversion must not compete with the feed for two cores."""
    executor = ThreadPoolExecutor(1, "stocktrace-publish")

    def submit(layout: Layout, window: WindowId, *, whole: bool) -> PublishFuture:
        on_progress = partial(run.show_progress, "writing Parquet")
        future = executor.submit(
            publish_window, layout, window, whole=whole, on_progress=on_progress
        )
        future.add_done_callback(lambda _: run.wake())
        return future

    try:
        yield submit
    finally:
        # After a clean end nothing is pending. After an interruption the rest can wait: the next
        # capture, or `stocktrace convert`, finds the sealed segments.
        executor.shutdown(cancel_futures=True)


# From malloc.h of glibc; other libraries do not have them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT_BYTES = 1 << 17
# More than a batch and a row group need; the maximum that mallopt(3) allows for a heap's block.
_KEPT_BYTES, _BLOCK_BYTES = 1 << 28, 1 << 25


@contextlib.contextmanager
def tune_memory() -> Iterator[None]:
    """Tune garbage collector and allocator of the process, as measured in docs/performance.md.

    - Look for reference cycles less often: trades come by the hundred thousand and have none. With
      the default thresholds, that takes half of the decoding time.
    - Keep freed memory, because the next batch needs as much. A batch allocates some megabytes and
      frees them, many times a second. By default the system gets them back each time and hands them
      out page by page, each zeroed: 0.3 µs a trade, a tenth of the total. Without glibc, only
      pyarrow's part is kept.
    """
    thresholds, pool = gc.get_threshold(), pa.default_memory_pool()
    libc = ctypes.CDLL(None)
    mallopt = getattr(libc, "mallopt", None)
    gc.set_threshold(50_000, 20, 100)
    pa.set_memory_pool(pa.system_memory_pool())
    if mallopt is not None:
        mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_MMAP_THRESHOLD, _BLOCK_BYTES)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        pa.set_memory_pool(pool)
        if mallopt is not None:
            mallopt(_TRIM_THRESHOLD, _DEFAULT_BYTES)
            mallopt(_MMAP_THRESHOLD, _DEFAULT_BYTES)
            libc.malloc_trim(0)
