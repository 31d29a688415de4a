"""The place of a key on Prefect's server: held, given back, and never in the capture's way."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from stocktrace.errors import KeyInUse
from stocktrace.settings import Settings
from tests.station import Api, reading
from tests.waiting import eventually

if TYPE_CHECKING:
    from flows.key_lease import KeyLease

pytestmark = [
    pytest.mark.xdist_group("prefect"),
    pytest.mark.timeout(300),  # the first to come waits for Prefect's import and its server
]


@pytest.fixture
def api(server: str) -> Iterator[Api]:
    with reading(server) as api:
        yield api


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


def die(slot: KeyLease) -> None:
    """As if its process were killed: nothing is given back."""
    slot._lease = None
    slot._over.set()
    slot.close()


def test_a_place_is_taken_while_it_is_held_and_no_longer(slots: Any, api: Api, key: str) -> None:
    with slots.Slot(Settings.load()) as slot:
        assert taken(api, slot) == 1
        assert api.one(f"/v2/concurrency_limits/{slot.name}")["limit"] == 1
    slot.close()
    assert taken(api, slot) == 0
    assert key not in slot.name


def test_a_second_machine_is_refused_with_what_to_do(
    slots: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with slots.Slot(Settings.load()) as first:
        on_another_machine(monkeypatch, tmp_path)
        second = slots.Slot(Settings.load())
        second._patience_s = 0.0
        with pytest.raises(KeyInUse) as refused, second:
            pytest.fail("two machines had the key")
        assert taken(api, first) == 1
    first.close()
    assert str(refused.value) == (
        f"Another capture on another machine already uses this API key (in the global concurrency "
        f"limit {first.name}; one that died is out of it within 5 minutes, and if there is none "
        f"at all, run prefect gcl update {first.name} --active-slots 0): "
        "stop it first, or use a second key."
    )


def test_a_second_machine_that_waits_takes_over(
    slots: Any, api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = slots.Slot(Settings.load())
    first.__enter__()
    on_another_machine(monkeypatch, tmp_path)
    second = slots.Slot(Settings.load(wait_for_key="60s"))
    asked = second._asked

    def leave_then_ask(client: Any) -> bool:
        got = asked(client)
        first.__exit__(None, None, None)
        return bool(got)

    monkeypatch.setattr(second, "_asked", leave_then_ask)
    with second:
        first.close()
        assert taken(api, second) == 1
    second.close()


def test_what_a_killed_capture_held_on_this_machine_is_given_back_at_once(
    slots: Any, api: Api
) -> None:
    first = slots.Slot(Settings.load())
    with first:
        die(first)
    assert taken(api, first) == 1
    with slots.Slot(Settings.load()) as second:
        assert taken(api, second) == 1
    second.close()
    assert taken(api, second) == 0


def test_a_server_whose_database_is_locked_is_asked_again_at_once(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = slots.Slot(Settings.load())
    step, refused = slot._step, []

    def locked_at_first(client: Any) -> float:
        try:
            return float(step(client))
        except slots._Busy:
            refused.append(slot._lease)
            monkeypatch.setattr(slots, "_BUSY", 503)
            raise

    monkeypatch.setattr(slots, "_BUSY", 404)  # as it answers about a limit that is not there yet
    monkeypatch.setattr(slot, "_step", locked_at_first)
    with slot:
        assert taken(api, slot) == 1
    slot.close()
    assert (refused, slot.outage.failures) == ([None], 0)


def test_without_an_answer_the_capture_goes_on(
    slots: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(**_: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(slots, "get_client", gone)
    monkeypatch.setattr(slots, "ANSWER_WITHIN_S", 0.1)
    with caplog.at_level(logging.WARNING), slots.Slot(Settings.load()) as slot:
        pass
    slot.close()
    assert not slot._thread.is_alive()
    assert [record.message for record in caplog.records] == [
        "the place of the key cannot be kept (ConnectionError); recording goes on",
        (
            "Prefect's server does not say whether another machine uses the key: "
            "the capture goes on without its word"
        ),
    ]


def test_when_the_server_is_back_the_place_is_taken_after_all(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect = slots.get_client

    def gone(**_: object) -> None:
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(slots, "get_client", gone)
    monkeypatch.setattr(slots, "ANSWER_WITHIN_S", 0.1)
    with slots.Slot(Settings.load()) as slot:
        assert slot._lease is None
        monkeypatch.setattr(slots, "get_client", connect)
        eventually(lambda: slot._lease)
        assert taken(api, slot) == 1
    slot.close()
    assert taken(api, slot) == 0


def test_a_place_that_the_server_lost_is_asked_for_again(
    slots: Any, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect import get_client

    monkeypatch.setattr(slots, "RENEW_EVERY_S", 0.05)
    with slots.Slot(Settings.load()) as slot:
        lost = slot._lease
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lost)
        eventually(lambda: slot._lease not in {lost, None})
        assert taken(api, slot) == 1
    slot.close()
    assert taken(api, slot) == 0


def test_a_place_that_another_took_meanwhile_is_told_once_and_ends_nothing(
    slots: Any,
    api: Api,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from prefect import get_client

    monkeypatch.setattr(slots, "RENEW_EVERY_S", 0.05)
    first, tries = slots.Slot(Settings.load()), Counter[str]()
    step, gate = first._step, threading.Event()

    def slowly(client: Any) -> float:
        if first._lease is not None and not gate.is_set():
            return 0.05
        tries["first"] += gate.is_set()
        return float(step(client))

    monkeypatch.setattr(first, "_step", slowly)
    with first, caplog.at_level(logging.WARNING):
        on_another_machine(monkeypatch, tmp_path)
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(first._lease)
        with slots.Slot(Settings.load()) as second:
            gate.set()
            eventually(lambda: tries["first"] > 2)
        second.close()
        eventually(lambda: first._lease is not None)  # its own again
    first.close()
    told = "another machine has taken the place of the key; the capture goes on"
    assert [one.message for one in caplog.records].count(told) == 1
