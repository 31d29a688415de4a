"""What Prefect runs: decorators, parameters, artifacts; no logic of its own."""

from flows import prefect_settings

prefect_settings.set_defaults()
