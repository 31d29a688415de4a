"""What Prefect runs: decorators, parameters, artifacts; no logic of its own."""

from flows import environment

environment.prepare()
