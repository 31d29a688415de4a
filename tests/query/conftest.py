"""A data folder with published trades, made as the tests of the store make it."""

from __future__ import annotations

from tests.store.conftest import layout, seal

__all__ = ["layout", "seal"]
