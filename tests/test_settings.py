from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from pydantic import SecretStr, ValidationError

from stocktrace.errors import SettingsError, UsageError
from stocktrace.settings import Settings

KEY = "s3cret-key"
NEW_YORK = ZoneInfo("America/New_York")

NO_DURATION = "{!r} is not a duration: write it like 30s, 10m or 1h30m."
OUT_OF_RANGE = "{!r} is not a duration between 1ms and 366d."
NO_TIME_TO_KEEP = "{!r} is not a retention time: write it like 30d, 0s or forever."
NO_SIZE = "{!r} is not a size: write it like 64MB or 1GB."
NO_ADDRESS = "{!r} is not a WebSocket address. Write it like wss://ws.finnhub.io."
KEY_IN_URL = "Take the key out of the URL; it belongs in FINNHUB_API_KEY."
NOT_VALID = "{!r} is not valid. Input should be {}."
WHOLE_NUMBER = "a valid integer, unable to parse string as an integer"

DURATIONS = (
    *(
        "roll_interval",
        "flush_interval",
        "sync_interval",
        "handshake_timeout",
        "ping_interval",
        "pong_timeout",
    ),
    *(
        "frame_timeout",
        "idle_timeout",
        "backoff_base",
        "backoff_cap",
        "backoff_floor",
        "stable_after",
    ),
)
SIZES = ("roll_size", "min_free_space")
KEPT = ("tape_retention", "csv_retention")
ROWS = ("batch_rows", "max_pending_rows_per_ticker", "max_pending_rows")

NO_LAKE = (
    "This is not the URL of a lake. Write it like s3://bucket/prefix, gs://…, abfs://… or "
    "file:///path."
)
CREDENTIALS_IN_URL = (
    "Take the credentials out of the URL of the lake; they belong in the variables of its store, "
    "such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."
)
LAKE_FOR_FOLDER = (
    "The data folder must be on this machine. `stocktrace trades`, `bars` and `gaps` read a lake, "
    "--lake sends to it, and `stocktrace compact --lake` compacts it."
)

# Of every setting: texts and what they mean, and texts and what is said of them.
MEANT: dict[str, dict[str, object]] = {
    **{name: {"1h30m": 5400.0, "250ms": 0.25} for name in DURATIONS},
    **{name: {"64MB": 64_000_000, "1.5 gb": 1_500_000_000, "17": 17} for name in SIZES},
    **{name: {"forever": None, "0": 0.0, "0s": 0.0, "30d": 2_592_000.0} for name in KEPT},
    **{name: {"1": 1, "250000": 250_000} for name in ROWS},
    "metrics": {
        "off": "off",
        "9464": "127.0.0.1:9464",
        "0.0.0.0:9464": "0.0.0.0:9464",
        "[::1]:0": "[::1]:0",
    },
    "wait_for_key": {"0": 0.0, "0s": 0.0, "5m": 300.0},
    "url": {
        "ws://127.0.0.1:8000": "ws://127.0.0.1:8000",
        "wss://[::1]/path?a=1": "wss://[::1]/path?a=1",
    },
    "data_dir": {"somewhere/else": Path("somewhere/else")},
    "lake": {
        "s3://bucket": "s3://bucket",
        "s3://bucket/prefix/": "s3://bucket/prefix",
        "s3://bucket/p?endpoint_override=127.0.0.1:9000&scheme=http": (
            "s3://bucket/p?endpoint_override=127.0.0.1:9000&scheme=http"
        ),
        "gs://bucket/prefix": "gs://bucket/prefix",
        "abfs://container@account.dfs.core.windows.net/prefix": (
            "abfs://container@account.dfs.core.windows.net/prefix"
        ),
        "file:///srv/lake": "file:///srv/lake",
    },
}
REFUSED: dict[str, dict[str, str]] = {
    **{
        name: {
            "soon": NO_DURATION.format("soon"),
            "90": NO_DURATION.format("90"),
            "0s": OUT_OF_RANGE.format("0s"),
        }
        for name in DURATIONS
    },
    **{
        name: {text: NO_TIME_TO_KEEP.format(text) for text in ("Forever", "-1s", "30", "367d")}
        for name in KEPT
    },
    "metrics": {
        text: f"{text!r} is not an address to listen on. Write it like 9464, 0.0.0.0:9464 or off."
        for text in ("on", "65536", ":1", "::1", "a@b:1", "host:1/x", "http://host:1", "host:-1")
    },
    "wait_for_key": {"a while": NO_DURATION.format("a while"), "5": NO_DURATION.format("5")},
    "roll_size": {
        "big": NO_SIZE.format("big"),
        "0": NOT_VALID.format(0, "greater than 0"),
    },
    "min_free_space": {
        "-1MB": NO_SIZE.format("-1MB"),
        "2000000000GB": "'2000000000GB' is too large: use at most 1000000000 GB.",
    },
    **{
        name: {
            "many": NOT_VALID.format("many", WHOLE_NUMBER),
            "1.5": NOT_VALID.format("1.5", WHOLE_NUMBER),
            "0": NOT_VALID.format("0", "greater than or equal to 1"),
        }
        for name in ROWS
    },
    "url": {
        "https://ws.finnhub.io": NO_ADDRESS.format("https://ws.finnhub.io"),
        "ws.finnhub.io": NO_ADDRESS.format("ws.finnhub.io"),
        "wss://": NO_ADDRESS.format("wss://"),
        "ws://host:0": NO_ADDRESS.format("ws://host:0"),
        "ws://host:99999": NO_ADDRESS.format("ws://host:99999"),
        "ws://host:port": NO_ADDRESS.format("ws://host:port"),
        "ws://[": NO_ADDRESS.format("ws://["),
        f"wss://ws.finnhub.io?token={KEY}": KEY_IN_URL,
        f"https://ws.finnhub.io?TOKEN={KEY}": KEY_IN_URL,
        f"wss://ws.finnhub.io/#token={KEY}": KEY_IN_URL,
        f"wss://user:{KEY}@ws.finnhub.io": KEY_IN_URL,
        f"wss://{KEY}@ws.finnhub.io": KEY_IN_URL,
    },
    "lake": {
        **dict.fromkeys(("bucket", "s3://", "file://host", "http://bucket/p", "s3://["), NO_LAKE),
        f"s3://user:{KEY}@bucket/p": CREDENTIALS_IN_URL,
        f"s3://{KEY}@bucket/p": CREDENTIALS_IN_URL,
        f"abfs://container:{KEY}@account/p": CREDENTIALS_IN_URL,
        f"s3://bucket/p?secret_key={KEY}": (
            "Unknown option secret_key in the URL of the lake. Options of s3://: "
            "endpoint_override, region, scheme."
        ),
        "file:///srv/lake?access_key=": (
            "Unknown option access_key in the URL of the lake. Options of file://: none."
        ),
    },
    "data_dir": dict.fromkeys(("s3://bucket/p", "file:///srv/lake"), LAKE_FOR_FOLDER),
}
ALL_MEANT = [(name, text, value) for name, texts in MEANT.items() for text, value in texts.items()]
ALL_REFUSED = [
    (name, text, said) for name, texts in REFUSED.items() for text, said in texts.items()
]


def told(work: Callable[[], object]) -> str:
    """The sentence of the error that ``work`` raises, which never has the key in it."""
    with pytest.raises(SettingsError) as raised:
        work()
    assert isinstance(raised.value, UsageError)
    assert KEY not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


# --- where settings come from ----------------------------------------------------------------


def test_every_setting_is_tested_here() -> None:
    assert set(MEANT) == set(Settings.model_fields) - {"finnhub_api_key"}
    assert set(REFUSED) == set(MEANT)


def test_unset_settings_have_their_defaults() -> None:
    assert Settings.load().public() == {
        "url": "wss://ws.finnhub.io",
        "data_dir": "data",
        "lake": "",
        "wait_for_key": 0.0,
        "roll_interval": 600.0,
        "roll_size": 128_000_000,
        "flush_interval": 1.0,
        "batch_rows": 50_000,
        "max_pending_rows_per_ticker": 100_000,
        "max_pending_rows": 500_000,
        "sync_interval": 1.0,
        "min_free_space": 200_000_000,
        "metrics": "off",
        "tape_retention": "forever",
        "csv_retention": 0.0,
        "handshake_timeout": 12.0,
        "ping_interval": 8.0,
        "pong_timeout": 8.0,
        "frame_timeout": 10.0,
        "idle_timeout": 150.0,
        "backoff_base": 1.0,
        "backoff_cap": 60.0,
        "backoff_floor": 1.0,
        "stable_after": 60.0,
    }


@pytest.mark.parametrize(("name", "text", "value"), ALL_MEANT)
def test_a_setting_means_the_same_as_a_flag_in_the_environment_and_in_files(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(Settings.load(**{name: text}), name) == value
    Path("stocktrace.toml").write_text(f"{name} = '{text}'\n", encoding="utf-8")
    assert getattr(Settings.load(), name) == value
    Path("stocktrace.toml").unlink()
    Path(".env").write_text(f"STOCKTRACE_{name.upper()}='{text}'\n", encoding="utf-8")
    assert getattr(Settings.load(), name) == value
    Path(".env").unlink()
    monkeypatch.setenv(f"STOCKTRACE_{name.upper()}", text)
    assert getattr(Settings.load(), name) == value


@pytest.mark.parametrize(("name", "text", "said"), ALL_REFUSED)
def test_a_wrong_setting_is_named_as_it_was_given(
    name: str, text: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert told(lambda: Settings.load(**{name: text})) == f"--{name.replace('_', '-')}: {said}"
    Path("stocktrace.toml").write_text(f"{name} = '{text}'\n", encoding="utf-8")
    assert told(Settings.load) == f"{name} in stocktrace.toml: {said}"
    Path("stocktrace.toml").unlink()
    Path(".env").write_text(f"STOCKTRACE_{name.upper()}='{text}'\n", encoding="utf-8")
    assert told(Settings.load) == f"STOCKTRACE_{name.upper()}: {said}"
    Path(".env").unlink()
    monkeypatch.setenv(f"STOCKTRACE_{name.upper()}", text)
    assert told(Settings.load) == f"STOCKTRACE_{name.upper()}: {said}"


def test_a_flag_precedes_the_environment_the_env_file_the_toml_file_and_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = [Settings.load().batch_rows]
    Path("stocktrace.toml").write_text("batch_rows = 4\n", encoding="utf-8")
    seen.append(Settings.load().batch_rows)
    Path(".env").write_text("STOCKTRACE_BATCH_ROWS=1\n", encoding="utf-8")
    seen.append(Settings.load().batch_rows)
    monkeypatch.setenv("STOCKTRACE_BATCH_ROWS", "2")
    seen.append(Settings.load().batch_rows)
    seen.append(Settings.load(batch_rows="3").batch_rows)
    assert seen == [50_000, 4, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            'roll_intervl = "5m"',
            "Unknown setting roll_intervl in stocktrace.toml. Did you mean roll_interval?",
        ),
        (
            "xyz = 1",
            "Unknown setting xyz in stocktrace.toml. See `stocktrace capture --help`.",
        ),
        (
            f'finnhub_api_key = "{KEY}"',
            (
                "Unknown setting finnhub_api_key in stocktrace.toml. The key belongs in "
                "FINNHUB_API_KEY, in the environment or in a .env file."
            ),
        ),
        (
            "min_free_space = true",
            (
                "min_free_space in stocktrace.toml must be a text or a number. "
                'Write it like "5m" or 10.'
            ),
        ),
        (
            "roll_interval =",
            "Cannot read stocktrace.toml: Invalid value (at end of document).",
        ),
    ],
)
def test_a_wrong_settings_file_is_reported(text: str, sentence: str) -> None:
    Path("stocktrace.toml").write_text(text, encoding="utf-8")
    assert told(Settings.load) == sentence


def test_numbers_in_a_settings_file_are_seconds_bytes_and_rows() -> None:
    Path("stocktrace.toml").write_text("roll_interval = 90\nmin_free_space = 5\nmetrics = 9464\n")
    settings = Settings.load()
    assert (settings.roll_interval, settings.min_free_space) == (90.0, 5)
    assert settings.metrics == "127.0.0.1:9464"


def test_a_missing_flag_and_an_empty_variable_set_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STOCKTRACE_ROLL_INTERVAL", "")
    assert Settings.load(batch_rows=None) == Settings()


def test_a_variable_without_our_prefix_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("URL", "ws://elsewhere")
    monkeypatch.setenv("DATA_DIR", "elsewhere")
    assert Settings.load() == Settings()


def test_a_misspelt_flag_is_reported() -> None:
    assert told(lambda: Settings.load(rollevery="1m", btch=1, url="ws://x")) == (
        "Unknown setting btch, rollevery."
    )


def test_settings_of_the_right_type_need_no_text() -> None:
    given: dict[str, Any] = {
        "roll_interval": timedelta(minutes=2),
        "idle_timeout": 30,
        "roll_size": 1000,
        "batch_rows": 7,
        "data_dir": Path("x"),
    }
    settings = Settings.load(**given)
    assert {name: getattr(settings, name) for name in given} == {
        **given,
        "roll_interval": 120.0,
        "idle_timeout": 30.0,
    }


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Settings.load().batch_rows = 1  # type: ignore[misc]


def test_an_env_file_that_is_not_text_is_one_sentence() -> None:
    Path(".env").write_bytes(b"FINNHUB_API_KEY=\xff\xfe\n")
    assert told(Settings.load) == (
        "Cannot read .env: 'utf-8' codec can't decode byte 0xff in position 16: invalid start byte."
    )


def test_a_folder_named_env_is_ignored() -> None:
    Path(".env").mkdir()
    assert Settings.load() == Settings()


def test_a_misspelt_variable_is_refused_with_a_suggestion(monkeypatch):
    monkeypatch.setenv("STOCKTRACE_ROL_INTERVAL", "5m")
    assert told(Settings.load) == (
        "Unknown setting STOCKTRACE_ROL_INTERVAL. Did you mean STOCKTRACE_ROLL_INTERVAL?"
    )


def test_the_variable_of_the_deployment_folder_is_not_refused(monkeypatch):
    monkeypatch.setenv("STOCKTRACE_HOME", "/srv/stocktrace")
    assert Settings.load().roll_interval == 600.0


# --- the key ---------------------------------------------------------------------------------


def test_the_key_comes_from_the_environment_above_the_env_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path(".env").write_text(f"FINNHUB_API_KEY={KEY}\n", encoding="utf-8")
    assert Settings.load().key() == KEY
    monkeypatch.setenv("FINNHUB_API_KEY", f" {KEY}2\n")
    assert Settings.load().key() == f"{KEY}2"


@pytest.mark.parametrize("key", [None, "", "  ", "\t"])
def test_a_missing_key_is_reported_with_where_to_get_one(
    key: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if key is not None:
        monkeypatch.setenv("FINNHUB_API_KEY", key)
    assert told(Settings.load().key) == (
        "Set FINNHUB_API_KEY in the environment or in a .env file. Get a free key at "
        "https://finnhub.io/register, or try `stocktrace demo` without one."
    )


@pytest.mark.parametrize("key", [f"{KEY} {KEY}", f"{KEY}ä", f"{KEY}\n{KEY}", f"{KEY}\x7f"])
def test_an_impossible_key_is_reported_without_showing_it(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", key)
    assert told(Settings.load().key) == (
        "FINNHUB_API_KEY contains a space or a character that keys do not have."
    )


def test_the_key_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    settings = Settings.load()
    assert settings.key() == KEY
    shown = [
        repr(settings),
        str(settings),
        f"{settings}",
        str(settings.public()),
        str(settings.model_dump()),
        settings.model_dump_json(),
        repr(settings.finnhub_api_key),
        str(vars(settings)),
    ]
    assert [text for text in shown if KEY in text] == []
    assert "finnhub_api_key" not in settings.public()
    assert "finnhub_api_key" not in repr(settings)


def test_the_key_is_in_no_error_of_another_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINNHUB_API_KEY", KEY)
    monkeypatch.setenv("STOCKTRACE_BATCH_ROWS", "x")
    assert told(Settings.load) == f"STOCKTRACE_BATCH_ROWS: {NOT_VALID.format('x', WHOLE_NUMBER)}"


def test_settings_travel_to_another_process_with_their_key() -> None:
    settings = Settings.load().model_copy(update={"finnhub_api_key": SecretStr(KEY)})
    assert pickle.loads(pickle.dumps(settings)).key() == KEY
