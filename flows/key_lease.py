"""One capture per key across machines: a place in a global concurrency limit of Prefect's server.

It stands behind the host's own lock and guards what that cannot see. A thread keeps it: asks for
the place, renews its lease, asks again if the server lost it, gives it back. Who holds the host's
lock also gives back what a capture left that was killed here, or is about to end. When the server
does not answer the capture goes on without (docs/decisions/0004-one-key-many-machines.md).
"""

from __future__ import annotations

import contextlib
import logging
import threading
from contextvars import copy_context
from types import TracebackType
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

# How long the place of a machine that died stays taken: it outlasts a restart of the server.
LEASE_S = 300.0
RENEW_EVERY_S = 60.0
# How long a capture waits for an answer, or for a place that is just being given back.
ANSWER_WITHIN_S = 15.0
ASK_EVERY_S = 0.5
# The same while the server's database is locked for a moment, as it often is when a run ends.
# Prefect's client would ask again after 2 s, and that would be the gap of a hand-over.
BUSY_S = 0.1
# How long the end of a run waits for the place to be given back; its lease ends it all the same.
GIVE_BACK_WITHIN_S = 3.0

_LOCKED, _GONE, _BUSY = 423, 410, 503


class _Busy(Exception):
    """The server's database was locked."""


def _refuse_to_wait(response: Any) -> None:
    if response.status_code == _BUSY:
        raise _Busy


_AT_ONCE = {"event_hooks": {"response": [_refuse_to_wait]}}


class KeyLease:
    """The place of a key, held in a ``with`` statement; leaving it does not wait."""

    def __init__(self, settings: Settings) -> None:
        key, url = settings.key(), settings.url
        #: The name of the limit, which does not lead back to the key.
        self.name = f"stocktrace-key-{key_lock.key_id(key, url)}"
        self._patience_s = max(ANSWER_WITHIN_S, settings.wait_for_key)
        self._note = key_lock.key_lock_path(key, url).with_suffix(".lease")
        self._lease: UUID | None = None
        self._answered, self._settled, self._over = (threading.Event() for _ in range(3))
        self._refused = self._running = False
        self.outage = ServerOutage(
            "the place of the key cannot be kept", "the place of the key can be kept again"
        )
        self._is_taken = False
        run = runtime.flow_run.id
        self._holder = ConcurrencyLeaseHolder(type="flow_run", id=UUID(run)) if run else None
        self._thread = threading.Thread(
            target=copy_context().run, args=(self._keep,), name="stocktrace-slot", daemon=True
        )

    def __enter__(self) -> Self:
        """Take the place.

        Raises:
            KeyInUse: a capture on another machine has it.
        """
        self._patience = Deadline.after(self._patience_s)
        self._thread.start()
        try:
            # What the server answers last may come a little late; that it answers is what counts.
            if not self._settled.wait(ANSWER_WITHIN_S) and self._answered.is_set():
                self._settled.wait(self._patience.remaining() + ANSWER_WITHIN_S)
        except BaseException:
            self._over.set()
            raise
        self._running = True
        if self._refused:
            raise KeyInUse(
                f"in the global concurrency limit {self.name}; one that died is out of it within "
                f"{LEASE_S / 60:g} minutes, and if there is none at all, run prefect gcl update "
                f"{self.name} --active-slots 0",
                "on another machine",
            )
        if not self._settled.is_set():
            log.warning(
                "Prefect's server does not say whether another machine uses the key: "
                "the capture goes on without its word"
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()

    def close(self) -> None:
        """Let the place be given back before the process ends."""
        if self._thread.ident is not None:
            self._thread.join(GIVE_BACK_WITHIN_S)

    # --- on the thread of its own ------------------------------------------------------------

    def _keep(self) -> None:
        pause = 0.0
        while not self._over.wait(pause):
            settings = None if self._running else _AT_ONCE
            try:
                with get_client(sync_client=True, httpx_settings=settings) as client:
                    pause = self._step(client)
            except _Busy:
                pause = BUSY_S
            except Exception as error:  # noqa: BLE001 - whatever it is, the capture goes on
                pause = ANSWER_WITHIN_S if self._running else ASK_EVERY_S
                self.outage.on_failure(error)
            else:
                self.outage.on_success()
        if self._lease is not None:
            with contextlib.suppress(Exception), get_client(sync_client=True) as client:
                client.release_concurrency_slots_with_lease(self._lease)

    def _step(self, client: SyncPrefectClient) -> float:
        """Renew the place or ask for it; gives the seconds until the next step."""
        if self._lease is not None and self._renewed(client, self._lease):
            self._is_taken = False
            return RENEW_EVERY_S
        with contextlib.suppress(OSError, ValueError):  # nothing was left
            left = UUID(self._note.read_text(encoding="utf-8"))
            client.release_concurrency_slots_with_lease(left)
        client.upsert_global_concurrency_limit_by_name(self.name, 1)
        if self._asked(client):
            self._is_taken = False
            self._settled.set()
            return RENEW_EVERY_S
        if self._running:
            if not self._is_taken:
                log.warning("another machine has taken the place of the key; the capture goes on")
            self._is_taken = True
            return RENEW_EVERY_S
        if self._patience.passed():
            self._refused = True
            self._over.set()
            self._settled.set()
        return ASK_EVERY_S

    def _renewed(self, client: SyncPrefectClient, lease: UUID) -> bool:
        try:
            client.renew_concurrency_lease(lease, LEASE_S)
        except PrefectHTTPStatusError as error:
            if error.response.status_code != _GONE:
                raise
            log.warning("Prefect's server has lost the place of the key: asking for it again")
            self._lease = None
        return self._lease is not None

    def _asked(self, client: SyncPrefectClient) -> bool:
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
            self._note.write_text(str(self._lease), encoding="utf-8")
        self._answered.set()
        return True
