"""Everything that Prefect runs: decorators, parameters, artifacts, and no other logic."""

from flows import prefect_settings

prefect_settings.set_defaults()
