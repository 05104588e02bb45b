"""Make a challenger the champion if it passes the gate; not a DVC stage, since the registry is shared state."""

import sys
from functools import partial

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import ROOT
from flows.orchestration import LAYOUT, entry, load, plain_task
from timbreflow.errors import TimbreflowError
from timbreflow.stages.evaluate import evaluate_again
from timbreflow.tracking import promotion


@flow(name="promote", flow_run_name="promote-{name}")
def promote(name: str) -> None:
    """One task; the criteria with both figures are its artifact. A refused challenger fails the run.

    Args:
        name: of the model, such as vqvae, glow, or timbreflow-glow as in the registry.
    """
    params = load()
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=LAYOUT)
    result = plain_task(promotion.promote)(name, params.register_models.gate, root=ROOT, evaluate=evaluate)
    create_markdown_artifact(
        markdown=f"```\n{result.table()}\n```", key="promotion", description=f"Promotion of {name}"
    )
    if not result.promoted:
        failed = ", ".join(check.criterion for check in result.decision.failed)
        raise TimbreflowError(f"{name} was refused: it fails {failed}; train a better challenger.")


if __name__ == "__main__":
    entry(promote, *sys.argv[1:])
