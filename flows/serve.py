"""``python -m flows.serve``: run the deployments of prefect.yaml from one process, without a pool.

For one machine. Unlike a worker, it passes SIGTERM on to the captures, which stop cleanly: what
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

from flows import console
from stocktrace.cli import output
from stocktrace.errors import StocktraceError, UsageError, usage_or

if TYPE_CHECKING:
    from prefect.deployments.runner import RunnerDeployment
    from prefect.runner import Runner

FILE = Path("prefect.yaml")


def serve(
    *names: str, file: Annotated[Path, Parameter(help="The file with the deployments.")] = FILE
) -> int:
    """Serve the deployments NAMES, or all, until SIGTERM or Ctrl-C.

    It needs a server: PREFECT_API_URL. Runs work in the current folder.
    """
    entries = read_deployments(file)
    if unknown := [name for name in names if name not in entries]:
        raise UsageError(
            f"{file} has no deployment {', '.join(unknown)}. It has: {', '.join(entries)}."
        )
    if "PREFECT_API_URL" not in os.environ:
        raise UsageError(
            "Set PREFECT_API_URL to the address of a Prefect server, such as "
            "http://127.0.0.1:4200/api; `prefect server start` starts one."
        )
    runner = _make_runner()
    for name in names or entries:
        runner.add_deployment(make_deployment(entries[name]))
    output.to_stdout(f"Serving {', '.join(names or entries)}.\n")
    sys.stdout.flush()
    asyncio.run(runner.start())
    return 0


def _make_runner() -> Runner:
    from prefect.runner import Runner

    class DrainingRunner(Runner):
        """Prefect's runner, which on SIGTERM cancels its runs and waits for them (30 s).

        Prefect's own handler means to do that. But when it is called in the event loop, its
        ``stop`` returns a coroutine that nobody awaits (3.8.8), and the process kills its runs.
        """

        _draining: asyncio.Task[None] | None = None

        def handle_sigterm(self, *_: Any, **__: Any) -> None:
            """Begin to stop; a second signal changes nothing."""
            # A handler runs on the main thread, within its loop.
            asyncio.get_running_loop().call_soon_threadsafe(self._drain)

        def _drain(self) -> None:
            if self._draining is None:
                self._draining = asyncio.ensure_future(self.astop())

    # A restart must not pause the schedules: runs that are due in the meantime start late.
    return DrainingRunner(pause_on_shutdown=False, limit=None)


def read_deployments(file: Path) -> dict[str, dict[str, Any]]:
    """Return the deployments in a file like prefect.yaml, by name.

    Raises:
        UsageError: the file does not have any.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {str(entry["name"]): entry for entry in content["deployments"]}
    except OSError as error:
        raise usage_or(StocktraceError, error)(
            f"{file} cannot be read ({error.strerror}): name the file with --file."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError):
        raise UsageError(f"{file} has no deployments: see prefect.yaml of stocktrace.") from None


def make_deployment(entry: dict[str, Any]) -> RunnerDeployment:
    """Return the deployment of an entry, without its work pool."""
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.objects import ConcurrencyLimitConfig
    from prefect.deployments.runner import RunnerDeployment
    from prefect.schedules import Schedule

    schedules = [Schedule(**schedule) for schedule in entry.get("schedules", ())]
    limit = entry.get("concurrency_limit")
    same: dict[str, Any] = {
        name: entry.get(name) for name in ("parameters", "triggers", "description", "tags")
    }
    return RunnerDeployment.from_entrypoint(
        entry["entrypoint"],
        entry["name"],
        schedules=[DeploymentScheduleCreate.from_schedule(schedule) for schedule in schedules],
        concurrency_limit=None if limit is None else ConcurrencyLimitConfig(**limit),
        **same,
    )


if __name__ == "__main__":
    console.run_script("flows.serve", serve)
