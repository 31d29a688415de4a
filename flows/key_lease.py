"""One capture per API key across machines, by a slot in a global concurrency limit of Prefect.

The key lease comes after the host's key lock and covers what the lock cannot see. The holder of the
lock also releases the slot of a capture that was killed here or is about to end. Without an answer
of the server the capture continues (docs/decisions/0004-one-key-many-machines.md).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from contextvars import copy_context
from typing import Any, Self
from uuid import UUID

from prefect import get_client, runtime
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.objects import ConcurrencyLeaseHolder
from prefect.exceptions import PrefectHTTPStatusError

from flows.server_outage import ServerOutage
from stocktrace.clock import Deadline
from stocktrace.errors import KeyInUse
from stocktrace.live import key_lock
from stocktrace.settings import Settings

log = logging.getLogger("stocktrace.flow")

# How long the slot of a crashed machine stays taken; longer than a restart of the server.
LEASE_S = 300.0
RENEW_INTERVAL_S = 60.0
# How long a capture waits for an answer, or for a slot that is just being released.
ANSWER_TIMEOUT_S = 15.0
RETRY_INTERVAL_S = 0.5
# The same while the server's database is locked for a moment, as it often is when a run ends.
# Prefect's client would retry after 2 s, which would be the gap of a hand-over.
BUSY_RETRY_S = 0.1
# How long the end of a run waits for the slot's release. Otherwise the lease runs out.
RELEASE_TIMEOUT_S = 3.0

_LOCKED, _GONE, _BUSY = 423, 410, 503


class _ServerBusy(Exception):
    pass


def _raise_if_busy(response: Any) -> None:
    if response.status_code == _BUSY:
        raise _ServerBusy


_WITHOUT_RETRIES = {"event_hooks": {"response": [_raise_if_busy]}}


class KeyLease:
    """The slot of a key, held in a ``with`` statement. Leaving it does not wait; ``close`` does."""

    def __init__(self, settings: Settings) -> None:
        key, url = settings.key(), settings.url
        #: The name of the limit, which does not reveal the key.
        self.name = f"stocktrace-key-{key_lock.key_id(key, url)}"
        self.outage = ServerOutage("keep the key lease")
        self._patience_s = max(ANSWER_TIMEOUT_S, settings.wait_for_key)
        self._lease_file = key_lock.key_lock_path(key, url).with_suffix(".lease")
        self._lease: UUID | None = None
        self._answered, self._decided, self._ended = (threading.Event() for _ in range(3))
        self._is_refused = self._is_capturing = self._is_taken = False
        run = runtime.flow_run.id
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(run)) if run else None
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._run,), name="stocktrace-key-lease", daemon=True
        )

    def __enter__(self) -> Self:
        """Take the slot.

        Raises:
            KeyInUse: a capture on another machine has it.
        """
        self._patience = Deadline.after(self._patience_s)
        self._thread.start()
        try:
            # The decision may come a little late, as long as the server answers at all.
            if not self._decided.wait(ANSWER_TIMEOUT_S) and self._answered.is_set():
                self._decided.wait(self._patience.remaining() + ANSWER_TIMEOUT_S)
        except BaseException:
            self._ended.set()
            raise
        self._is_capturing = True
        if self._is_refused:
            raise KeyInUse(
                f"in the global concurrency limit {self.name}; the slot of a crashed capture is "
                f"free within {LEASE_S / 60:g} minutes; if no capture runs, run prefect gcl update "
                f"{self.name} --active-slots 0",
                "on another machine",
            )
        if not self._decided.is_set():
            log.warning(
                "Prefect's server does not say whether another machine uses the key: "
                "the capture continues without the key lease"
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def close(self) -> None:
        """Wait until the slot is released, before the process ends."""
        if self._thread.ident is not None:
            self._thread.join(RELEASE_TIMEOUT_S)

    # --- on its own thread -------------------------------------------------------------------

    def _run(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            settings = None if self._is_capturing else _WITHOUT_RETRIES
            try:
                with get_client(sync_client=True, httpx_settings=settings) as client:
                    pause = self._step(client)
            except _ServerBusy:
                pause = BUSY_RETRY_S
            except Exception as error:  # noqa: BLE001 - whatever it is, the capture continues
                pause = ANSWER_TIMEOUT_S if self._is_capturing else RETRY_INTERVAL_S
                self.outage.on_failure(error)
            else:
                self.outage.on_success()
        if self._lease is not None:
            with contextlib.suppress(Exception), get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self._lease)

    def _step(self, client: SyncPrefectClient) -> float:
        """Renew or take the slot; return the seconds until the next step."""
        if (self._lease is not None and self._renew(client, self._lease)) or self._take(client):
            self._is_taken = False
            self._decided.set()
            return RENEW_INTERVAL_S
        if self._is_capturing:
            if not self._is_taken:
                log.warning("another machine has taken the key lease; the capture continues")
            self._is_taken = True
            return RENEW_INTERVAL_S
        if self._patience.passed():
            self._is_refused = True
            self._ended.set()
            self._decided.set()
        return RETRY_INTERVAL_S

    def _renew(self, client: SyncPrefectClient, lease: UUID) -> bool:
        try:
            client.renew_concurrency_lease(lease, LEASE_S)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != _GONE:
                raise
            log.warning("Prefect's server has lost the key lease: taking it again")
            self._lease = None
        return self._lease is not None

    def _take(self, client: SyncPrefectClient) -> bool:
        with contextlib.suppress(OSError, ValueError):  # no earlier capture left a lease
            old_lease = UUID(self._lease_file.read_text(encoding="utf-8"))
            client.release_concurrency_slots_with_lease(old_lease)
        client.upsert_global_concurrency_limit_by_name(self.name, 1)
        try:
            answer = client.increment_concurrency_slots_with_lease(
                [self.name], 1, "concurrency", LEASE_S, self._holder
            )
        except PrefectHTTPStatusError as error:
            if error.response.status_code != _LOCKED:
                raise
            self._answered.set()
            return False
        self._lease = UUID(answer.json()["lease_id"])
        with contextlib.suppress(OSError):  # another user's file: then the lease has to run out
            self._lease_file.write_text(str(self._lease), encoding="utf-8")
        self._answered.set()
        return True
