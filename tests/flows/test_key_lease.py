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

LOST = "Prefect's server has lost the place of the key: asking for it again"
TAKEN = "another machine has taken the place of the key; the capture goes on"


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """One for each test: the server is the same for all."""
    key = f"key-of-{request.node.name}"
    monkeypatch.setenv("FINNHUB_API_KEY", key)
    return key


@pytest.fixture
def slots(key: str, server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, which asks often."""
    from flows import key_lease

    monkeypatch.setattr(key_lease, "ASK_EVERY_S", 0.05)
    return key_lease


def taken(api: Api, slot: KeyLease) -> int:
    return int(api.one(f"/v2/concurrency_limits/{slot.name}")["active_slots"])


def on_another_machine(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """What stands in this machine's folder of locks is not seen there."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))


def release(folder: Path) -> None:
    """Have the server lose the place whose lease was noted in ``folder``, the last that was."""
    from prefect import get_client

    note = max(folder.rglob("*.lease"), key=lambda path: path.stat().st_mtime_ns)
    with get_client(sync_client=True) as client:
        client.release_concurrency_slots_with_lease(UUID(note.read_text()))


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[..., Any]], None]:
    """Puts something around a call of Prefect's client; it is given the call and its arguments."""
    from prefect.client.orchestration import SyncPrefectClient

    def around(name: str, put: Callable[..., Any]) -> None:
        call = getattr(SyncPrefectClient, name)
        monkeypatch.setattr(
            SyncPrefectClient, name, lambda *given, **more: put(lambda: call(*given, **more))
        )

    return around


ASK, RENEW = "increment_concurrency_slots_with_lease", "renew_concurrency_lease"


@pytest.fixture
def gone(slots: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The server is gone until this is called."""

    def gone(**_: object) -> None:
        raise ConnectionError("the server is gone")

    with monkeypatch.context() as patch:
        patch.setattr(slots, "get_client", gone)
        patch.setattr(slots, "ANSWER_WITHIN_S", 0.1)
        yield patch.undo


def test_a_place_is_taken_while_it_is_held_and_no_longer(slots: Any, api: Api, key: str) -> None:
    with slots.KeyLease(Settings.load()) as slot:
        assert taken(api, slot) == 1
        assert api.one(f"/v2/concurrency_limits/{slot.name}")["limit"] == 1
    slot.close()
    assert taken(api, slot) == 0
    assert key not in slot.name


def test_a_second_machine_is_refused_with_what_to_do(
    slots: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slots.KeyLease(Settings.load()) as first:
        on_another_machine(monkeypatch, tmp_path)
        monkeypatch.setattr(slots.Deadline, "after", lambda _: Deadline(0.0))  # it has passed
        with pytest.raises(KeyInUse) as refused, slots.KeyLease(Settings.load()):
            pytest.fail("two machines had the key")
        assert taken(api, first) == 1
    first.close()
    assert str(refused.value) == (
        f"Another capture on another machine already uses this API key (in the global concurrency "
        f"limit {first.name}; one that died is out of it within 5 minutes, and if there is none "
        f"at all, run prefect gcl update {first.name} --active-slots 0). "
        "Stop it first, or use a second key."
    )


def test_a_second_machine_that_waits_takes_over(
    slots: Any,
    api: Api,
    around: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    with slots.KeyLease(Settings.load()) as first:
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
        with slots.KeyLease(Settings.load(wait_for_key="60s")) as second:
            assert leave.is_set()
            first.close()
            assert taken(api, second) == 1
    second.close()
    assert taken(api, second) == 0


def test_what_a_killed_capture_held_on_this_machine_is_given_back_at_once(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slots.KeyLease(Settings.load()) as first, monkeypatch.context() as killed:
        killed.delattr(slots, "get_client")  # it gives nothing back
        first.__exit__(None, None, None)
        first.close()
    assert taken(api, first) == 1
    with slots.KeyLease(Settings.load()) as second:
        assert taken(api, second) == 1
    second.close()
    assert taken(api, second) == 0


def test_a_server_whose_database_is_locked_is_asked_again_at_once(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, connect = httpx.HTTPTransport.handle_request, slots.get_client
    locked, clients = [503, 503], []

    def handle(transport: httpx.HTTPTransport, request: httpx.Request) -> httpx.Response:
        if "concurrency_limits" in request.url.path and locked:
            return httpx.Response(locked.pop(), json={"detail": "the database is locked"})
        return send(transport, request)

    def counted(**given: Any) -> Any:
        clients.append(given)
        return connect(**given)

    monkeypatch.setattr(slots, "get_client", counted)
    with monkeypatch.context() as patch:
        patch.setattr(httpx.HTTPTransport, "handle_request", handle)
        with slots.KeyLease(Settings.load()) as slot:
            # By us: Prefect's own client would wait for 2 s and ask with the same connection.
            assert (locked, len(clients)) == ([], 3)
            assert taken(api, slot) == 1
    slot.close()
    assert slot.outage.failures == 0


def test_without_an_answer_the_capture_goes_on(
    slots: Any, gone: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING), slots.KeyLease(Settings.load()) as slot:
        pass
    slot.close()
    assert "stocktrace-slot" not in [thread.name for thread in threading.enumerate()]
    assert [record.message for record in caplog.records] == [
        "the place of the key cannot be kept (ConnectionError); recording goes on",
        (
            "Prefect's server does not say whether another machine uses the key: "
            "the capture goes on without its word"
        ),
    ]


def test_when_the_server_is_back_the_place_is_taken_after_all(
    slots: Any, api: Api, gone: Callable[[], None]
) -> None:
    with slots.KeyLease(Settings.load()) as slot:
        limits = api.all("v2/concurrency_limits")
        assert slot.name not in [limit["name"] for limit in limits]
        gone()
        eventually(lambda: slot.name in [one["name"] for one in api.all("v2/concurrency_limits")])
        eventually(lambda: taken(api, slot) == 1)
    slot.close()
    assert taken(api, slot) == 0


def test_a_place_that_the_server_lost_is_asked_for_again(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(slots, "RENEW_EVERY_S", 0.05)
    with caplog.at_level(logging.WARNING), slots.KeyLease(Settings.load()) as slot:
        release(Path(tempfile.gettempdir()))
        eventually(lambda: LOST in caplog.messages)
        eventually(lambda: taken(api, slot) == 1)
    slot.close()
    assert taken(api, slot) == 0
    assert caplog.messages.count(LOST) == 1


def test_a_place_that_another_took_meanwhile_is_told_once_and_ends_nothing(
    slots: Any,
    api: Api,
    around: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    here, asked = Path(tempfile.gettempdir()), threading.Semaphore(0)
    others: list[KeyLease] = []
    monkeypatch.setattr(slots, "RENEW_EVERY_S", 0.05)

    def another_is_first(renew: Callable[[], Any]) -> Any:
        if not others:
            release(here)
            on_another_machine(monkeypatch, tmp_path)
            others.append(slots.KeyLease(Settings.load()))
            others[0].__enter__()
        return renew()

    def counted(ask: Callable[[], Any]) -> Any:
        asked.release()
        return ask()

    around(RENEW, another_is_first)
    with caplog.at_level(logging.WARNING), slots.KeyLease(Settings.load()) as first:
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
