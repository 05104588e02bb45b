"""Check the notes, then render content, style and target clips."""

from prefect import flow

from flows.orchestration import LAYOUT, entry, load, plain_task, publish, run_shards
from timbreflow.stages import render_triples as stage
from timbreflow.stages.result import StageResult
from timbreflow.validation.failure import InvalidData


def check_notes() -> None:
    """Refuse notes that fail their suites: what is rendered from them would be wrong, and take hours.

    Raises:
        InvalidData: an expectation failed.
    """
    from timbreflow.validation.notes import check_notes as check

    page = LAYOUT.results("collect_midi") / "data_docs" / "index.html"
    try:
        history = check(LAYOUT.notes, page=page, history=LAYOUT.results("validate_data") / "history.csv")
    except InvalidData as error:
        rows = [{"what": str(failure)} for failure in error.failures]
        publish("notes", StageResult(str(error), tables={"failures": rows}))
        raise
    summary = f"{history[0]['expectations']} expectations of the notes hold."
    publish("notes", StageResult(summary, tables={"history": history}))


@flow(name="render_triples", flow_run_name="render_triples")
def render_triples() -> None:
    """The check, then one mapped task a shard."""
    plain_task(check_notes, name="check notes")()
    run_shards(stage, load().render_triples)


if __name__ == "__main__":
    entry(render_triples, sharded=True)
