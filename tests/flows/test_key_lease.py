"""The place of a key on Prefect's server: held, given back, and never in the capture's way."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import httpx
import pytest

from stocktrace.clock import Deadline
from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from tests.station import Api
from tests.waiting import eventually

if TYPE_CHECKING:
    from flows.key_lease import KeyLease

pytestmark = pytest.mark.timeout(300)  # the first to come waits for Prefect's import and its server

LOST = "Prefect's server has lost the key lease: taking it again"
TAKEN = "another machine has taken the key lease; the capture continues"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """One for each test: the server is the same for all."""
    key = f"key-of-{request.node.name}"
    monkeypatch.setenv("FINNHUB_API_KEY", key)
    return key


@pytest.fixture
def module(key: str, server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which asks often."""
    from flows import key_lease

    monkeypatch.setattr(key_lease, "RETRY_INTERVAL_S", 0.05)
    return key_lease


def taken(api: Api, lease: KeyLease) -> int:
    return int(api.one(f"/v2/concurrency_limits/{lease.name}")["active_slots"])


def on_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What stands in this machine's folder of locks is not seen there."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def release(folder: Path) -> None:
    """Make the server lose the lease that was written to ``folder`` last."""
    from prefect import get_client

    note = max(folder.rglob("*.lease"), key=lambda path: path.stat().st_mtime_ns)
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(UUID(note.read_text()))


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """Replaces a call of Prefect's client by a function of the call."""
    from prefect.client.orchestration import SyncPrefectClient

    def around(name: str, put: Callable[..., Any]) -> None:
        call = getattr(SyncPrefectClient, name)
        monkeypatch.setattr(
            SyncPrefectClient, name, lambda *given, **more: put(lambda: call(*given, **more))
        )

    return around


ASK, RENEW = "increment_concurrency_slots_with_lease", "renew_concurrency_lease"


@pytest.fixture
def gone(module: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The server is unreachable until this is called."""

    def gone(**_: object) -> None:
        raise ConnectionError("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(module, "get_client", gone)
        patch.setattr(module, "ANSWER_TIMEOUT_S", 0.1)
        yield patch.undo


def test_a_slot_is_taken_while_the_lease_is_held(module: Any, api: Api, key: str) -> None:
    with module.KeyLease(Settings.load()) as lease:
        assert taken(api, lease) == 1
        assert api.one(f"/v2/concurrency_limits/{lease.name}")["limit"] == 1
    lease.close()
    assert taken(api, lease) == 0
    assert key not in lease.name


def test_a_second_machine_is_refused_with_what_to_do(
    module: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with module.KeyLease(Settings.load()) as first:
        on_another_machine(monkeypatch, tmp_path)
        monkeypatch.setattr(module.Deadline, "after", lambda _: Deadline(0.0))  # it has passed
        with pytest.raises(KeyInUse) as refused, module.KeyLease(Settings.load()):
            pytest.fail("two machines had the key")
        assert taken(api, first) == 1
    first.close()
    assert str(refused.value) == (
        f"Another capture on another machine already uses this API key (in the global concurrency "
        f"limit {first.name}; the slot of a crashed capture is free within 5 minutes; if no "
        f"capture runs, run prefect gcl update {first.name} --active-slots 0). "
        "Stop it first, or use a second key."
    )


def test_a_second_machine_that_waits_takes_over(
    module: Any,
    api: Api,
    around: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    with module.KeyLease(Settings.load()) as first:
        on_another_machine(monkeypatch, tmp_path)
        leave = threading.Event()

        def refused(ask: Callable[[], Any]) -> Any:
            try:
                return ask()
            except PrefectHTTPStatusError:
                first.__exit__(None, None, None)
                leave.set()
                raise

        around(ASK, refused)
        with module.KeyLease(Settings.load(wait_for_key="60s")) as second:
            assert leave.is_set()
            first.close()
            assert taken(api, second) == 1
    second.close()
    assert taken(api, second) == 0


def test_the_slot_of_a_capture_killed_on_this_machine_is_released_at_once(
    module: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with module.KeyLease(Settings.load()) as first, monkeypatch.context() as killed:
        killed.delattr(module, "get_client")  # it gives nothing back
        first.__exit__(None, None, None)
        first.close()
    assert taken(api, first) == 1
    with module.KeyLease(Settings.load()) as second:
        assert taken(api, second) == 1
    second.close()
    assert taken(api, second) == 0


def test_a_server_with_a_locked_database_is_asked_again_at_once(
    module: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, connect = httpx.HTTPTransport.handle_request, module.get_client
    locked, clients = [503, 503], []

    def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        if "concurrency_limits" in request.url.path and locked:
            return httpx.Response(locked.pop(), json={"detail": "the database is locked"})
        return send(transport, request)

    def counted(**given: Any) -> Any:
        clients.append(given)
        return connect(**given)

    monkeypatch.setattr(module, "get_client", counted)
    with monkeypatch.context() as patch:
        patch.setattr(httpx.HTTPTransport, "handle_request", handle)
        with module.KeyLease(Settings.load()) as lease:
            # By stocktrace: Prefect's own client would wait for 2 s on the same connection.
            assert (locked, len(clients)) == ([], 3)
            assert taken(api, lease) == 1
    lease.close()
    assert lease.outage.failures == 0


def test_without_an_answer_the_capture_continues(
    module: Any, gone: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), module.KeyLease(Settings.load()) as lease:
        pass
    lease.close()
    assert "stocktrace-key-lease" not in [thread.name for thread in threading.enumerate()]
    assert [record.message for record in caplog.records] == [
        "Prefect cannot keep the key lease (ConnectionError); recording continues",
        (
            "Prefect's server does not say whether another machine uses the key: "
            "the capture continues without the key lease"
        ),
    ]


def test_the_slot_is_taken_when_the_server_is_back(
    module: Any, api: Api, gone: Callable[[], None]
) -> None:
    with module.KeyLease(Settings.load()) as lease:
        limits = api.all("v2/concurrency_limits")
        assert lease.name not in [limit["name"] for limit in limits]
        gone()
        eventually(lambda: lease.name in [one["name"] for one in api.all("v2/concurrency_limits")])
        eventually(lambda: taken(api, lease) == 1)
    lease.close()
    assert taken(api, lease) == 0


def test_a_lease_that_the_server_lost_is_taken_again(
    module: Any, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "RENEW_INTERVAL_S", 0.05)
    with caplog.at_level(logging.WARNING), module.KeyLease(Settings.load()) as lease:
        release(Path(tempfile.gettempdir()))
        eventually(lambda: LOST in caplog.messages)
        eventually(lambda: taken(api, lease) == 1)
    lease.close()
    assert taken(api, lease) == 0
    assert caplog.messages.count(LOST) == 1


def test_a_slot_taken_by_another_machine_is_logged_once_and_ends_no_capture(
    module: Any,
    api: Api,
    around: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, asked = Path(tempfile.gettempdir()), threading.Semaphore(0)
    others: list[KeyLease] = []
    monkeypatch.setattr(module, "RENEW_INTERVAL_S", 0.05)

    def another_is_first(renew: Callable[[], Any]) -> Any:
        if not others:
            release(here)
            on_another_machine(monkeypatch, tmp_path)
            others.append(module.KeyLease(Settings.load()))
            others[0].__enter__()
        return renew()

    def counted(ask: Callable[[], Any]) -> Any:
        asked.release()
        return ask()

    around(RENEW, another_is_first)
    with caplog.at_level(logging.WARNING), module.KeyLease(Settings.load()) as first:
        eventually(lambda: TAKEN in caplog.messages)
        around(ASK, counted)
        for _ in range(3):
            assert asked.acquire(timeout=30)
        assert taken(api, first) == 1  # the other's
        (second,) = others
        second.__exit__(None, None, None)
        second.close()
        eventually(lambda: taken(api, first) == 1)  # its own again
    first.close()
    assert taken(api, first) == 0
    assert caplog.messages.count(TAKEN) == 1
