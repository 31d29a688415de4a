"""``python -m flows.serve``: the deployments of prefect.yaml from one process, with no work pool.

For one machine. Unlike a worker's, its SIGTERM reaches the captures, which end in order: what
systemd stops is drained (deploy/systemd).
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import yaml  # type: ignore[import-untyped]
from cyclopts import Parameter

from flows import script
from stocktrace.cli import output
from stocktrace.errors import StocktraceError, UsageError, is_usage

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment

FILE = Path("prefect.yaml")


def serve(
    *names: str,
    file: Annotated[Path, Parameter(help="Where the deployments stand.")] = FILE,
) -> int:
    """Serve the deployments NAMES, or all, until SIGTERM or Ctrl-C.

    It needs a server: PREFECT_API_URL. Runs work in the folder in which it was started.
    """
    found = read(file)
    if unknown := [name for name in names if name not in found]:
        raise UsageError(
            f"There is no deployment {', '.join(unknown)} in {file}: it has {', '.join(found)}."
        )
    if "PREFECT_API_URL" not in os.environ:
        raise UsageError(
            "Set PREFECT_API_URL to the address of a Prefect server, such as "
            "http://127.0.0.1:4200/api; `prefect server start` starts one."
        )

    from flows.runner import DrainingRunner

    # A restart is no reason to stop scheduling: what is due meanwhile starts late.
    runner = DrainingRunner(pause_on_shutdown=False, limit=None)
    for name in names or found:
        runner.add_deployment(deployment(found[name]))
    output.to_stdout(f"Serving {', '.join(names or found)}.\n")
    sys.stdout.flush()
    asyncio.run(runner.start())
    return 0


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The deployments in a file like prefect.yaml, by name.

    Raises:
        UsageError: there is none.
    """
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {str(one["name"]): one for one in found["deployments"]}
    except OSError as error:
        kind = UsageError if is_usage(error) else StocktraceError
        raise kind(
            f"{file} cannot be read ({error.strerror}): name the file with --file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        raise UsageError(f"{file} has no deployments: see prefect.yaml of stocktrace.") from None


def deployment(words: dict[str, Any]) -> RunnerDeployment:
    """A deployment from its entry, without the work pool."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.deployments.runner import RunnerDeployment

    schedules = [
        DeploymentScheduleCreate(
            schedule=CronSchedule(cron=one["cron"], timezone=one["timezone"]),
            active=one.get("active", True),
            slug=one["slug"],
        )
        for one in words.get("schedules", ())
    ]
    limit = words.get("concurrency_limit")
    return RunnerDeployment.from_entrypoint(
        words["entrypoint"],
        words["name"],
        schedules=schedules,
        parameters=words.get("parameters", {}),
        triggers=words.get("triggers", []),
        description=words.get("description"),
        tags=words.get("tags", []),
        concurrency_limit=None if limit is None else ConcurrencyLimitConfig(**limit),
    )


if __name__ == "__main__":
    script.run_script("flows.serve", serve)
