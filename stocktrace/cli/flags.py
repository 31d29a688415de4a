"""The settings as flags, made from the settings themselves: ``--roll-interval 5m``."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter

from stocktrace.settings import TUNING, Settings
from stocktrace.units import FOREVER

_SETTINGS = Group.create_ordered(
    "Settings",
    help="Also STOCKTRACE_DATA_DIR etc. in the environment or .env, and data_dir etc. in "
    "stocktrace.toml.",
)
_TUNING = Group.create_ordered("Tuning", help="Settings that rarely need a change.")
_UNITS_S = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_NAMES = [name for name in Settings.model_fields if name != "finnhub_api_key"]


def _flag(name: str) -> tuple[str, Any, Any]:
    setting = Settings.model_fields[name]
    parameter = Parameter(
        group=_SETTINGS if _NAMES.index(name) < _NAMES.index(TUNING) else _TUNING,
        help=setting.description,
        metavar=next(text for text in setting.metadata if isinstance(text, str)),
        show_default=_default_text(setting.default) or False,
    )
    return name, Annotated[str | None, parameter], dataclasses.field(default=None)


def _default_text(default: object) -> str:
    """Return a default as a user would write it: ``10m``, ``128MB``, ``forever``."""
    if default is None:
        return FOREVER
    if isinstance(default, float):
        fitting = (unit for unit, size in _UNITS_S.items() if default and default % size == 0)
        unit = next(fitting, "s")
        return f"{default / _UNITS_S[unit]:g}{unit}"
    if isinstance(default, int) and default % 1_000_000 == 0:
        return f"{default // 1_000_000}MB"
    return str(default)


if TYPE_CHECKING:

    class Flags:
        """An optional text for each setting, which ``load_settings`` parses."""

else:
    Flags = dataclasses.make_dataclass("Flags", map(_flag, _NAMES), kw_only=True)
    # For cyclopts, a class of the module "types" is not a dataclass.
    Flags.__module__ = __name__

#: For the parameter of a command that takes all settings.
AllFlags = Annotated[Flags | None, Parameter(name="*")]


def load_settings(flags: Flags | None) -> Settings:
    """Return the settings; flags take precedence.

    Raises:
        SettingsError: one is wrong.
    """
    return Settings.load(**vars(flags) if flags is not None else {})
