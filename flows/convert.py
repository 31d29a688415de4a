"""What captures left is published, as a Prefect flow: started when one ended, and every night.

It may run beside a capture: what belongs to a session that is alive is left to it.
"""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.markdown import escape_markdown
from stocktrace.errors import StocktraceError
from stocktrace.maintenance.convert import ConversionResult, convert_segments
from stocktrace.record.recovery import RecoveredSession
from stocktrace.record.recovery import recover as recover_all
from stocktrace.settings import Settings
from stocktrace.store.layout import Layout
from stocktrace.text import count_of


@flow(name="stocktrace-convert", persist_result=False)
def convert(data_dir: str | None = None) -> State[Any]:
    """Recover what sessions left that died, and publish every sealed segment.

    Running it again changes nothing; a capture that runs is not touched.

    Args:
        data_dir: The folder of everything that is recorded; else STOCKTRACE_DATA_DIR, else data.

    Returns:
        Sessions that were recovered, files and trades that were published.
    """
    try:
        recovered = recover(data_dir)
        conversion = convert_sealed(data_dir)
    except StocktraceError as error:
        return Failed(message=str(error))
    text = summary(recovered, conversion)
    create_markdown_artifact(page(recovered, conversion), key="stocktrace-convert")
    if conversion.failed or not all(one.balanced for one in recovered):
        return Failed(message=text)
    done = {
        "recovered": [one.session for one in recovered],
        "files": conversion.files,
        "rows": conversion.rows + sum(one.rows for one in recovered),
    }
    return Completed(message=text, data=done)


# Another process may be at it, or have a file at hand; both are idempotent.
@task(
    name="recover", retries=2, retry_delay_seconds=30, cache_policy=NO_CACHE, persist_result=False
)
def recover(data_dir: str | None) -> list[RecoveredSession]:
    """Publish what sessions left that died."""
    return recover_all(Layout.from_settings(Settings.load(data_dir=data_dir)))


@task(
    name="convert", retries=2, retry_delay_seconds=30, cache_policy=NO_CACHE, persist_result=False
)
def convert_sealed(data_dir: str | None) -> ConversionResult:
    """Publish the sealed segments that nobody is at."""
    return convert_segments(Layout.from_settings(Settings.load(data_dir=data_dir)))


def summary(recovered: list[RecoveredSession], conversion: ConversionResult) -> str:
    """What was done, in a sentence."""
    if not recovered and not conversion.files and not conversion.failed:
        return "Nothing was left to publish."
    rows = conversion.rows + sum(one.rows for one in recovered)
    text = (
        f"{count_of(len(recovered), 'session')} recovered, "
        f"{count_of(conversion.files, 'segment')} converted, {count_of(rows, 'trade')} published"
    )
    wrong = [f"the books of {one.session} do not balance" for one in recovered if not one.balanced]
    problems = [*conversion.failed, *wrong]
    if not problems:
        return f"{text}."
    return f"{text}; {count_of(len(problems), 'problem')}, the first: {problems[0]}"


def page(recovered: list[RecoveredSession], conversion: ConversionResult) -> str:
    """The same as Markdown, with each session."""
    lines = [f"# {escape_markdown(summary(recovered, conversion))}", ""]
    lines += [
        f"- session {escape_markdown(one.session)}: {count_of(one.windows, 'window')}, "
        f"{count_of(one.rows, 'trade')}, the books "
        f"{'balance' if one.balanced else '**do not balance**'}"
        for one in recovered
    ]
    lines += [f"- **failed:** {escape_markdown(sentence)}" for sentence in conversion.failed]
    return "\n".join(lines) + "\n"
