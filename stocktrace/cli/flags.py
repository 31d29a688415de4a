"""The settings as flags, made from the settings themselves: ``--roll-interval 5m``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from stocktrace.settings import Settings
from stocktrace.units import FOREVER

_GROUP = Group(
    "Settings",
    help="Also as STOCKTRACE_ROLL_INTERVAL and so on in the environment, .env or stocktrace.toml.",
)


def _flag(name: str) -> tuple[str, Any, Any]:
    setting = Settings.model_fields[name]
    text = f"{setting.description} Default: {_shown(setting.default)}."
    return (
        name,
        Annotated[str | None, Parameter(group=_GROUP, help=text, show_default=False)],
        dataclasses.field(default=None),
    )


def _shown(default: object) -> str:
    """A default as a user would write it: seconds are floats, sizes are millions of bytes."""
    if default is None:
        return FOREVER
    if isinstance(default, float):
        return f"{default:g}s"
    if isinstance(default, int) and default % 1_000_000 == 0:
        return f"{default // 1_000_000}MB"
    return str(default) or "none"


if TYPE_CHECKING:

    class Flags:
        """One optional text a setting; ``load`` gives it its meaning."""

else:
    Flags = dataclasses.make_dataclass(
        "Flags",
        [_flag(name) for name in Settings.model_fields if name != "finnhub_api_key"],
        kw_only=True,
    )
    Flags.__module__ = __name__  # cyclopts takes a class of the module "types" for no dataclass

#: For the parameter of a command that takes them all.
AllFlags = Annotated[Flags | None, Parameter(name="*")]


def load(flags: Flags | None) -> Settings:
    """The settings, the flags above all.

    Raises:
        SettingsError: one is wrong.
    """
    return Settings.load(**vars(flags) if flags is not None else {})
