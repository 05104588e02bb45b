"""Make a challenger the champion if it passes the gate; not a DVC stage, since the registry is shared state."""

import sys
from enum import StrEnum
from functools import partial

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from flows import ROOT
from flows.lifetime import Teller
from flows.orchestration import LAYOUT, entry, load, mlflow_page, plain_task
from timbreflow.errors import TimbreflowError
from timbreflow.models.catalogue import GATED, known_model
from timbreflow.stages.evaluate import evaluate_again
from timbreflow.tracking import promotion


class Model(StrEnum):
    """Models that the gate can promote. Prefect's pages offer these, and refuse others."""

    VQVAE = "vqvae"
    GLOW = "glow"

    @classmethod
    def _missing_(cls, value: object) -> "Model":
        """The model that has this name in the registry."""
        return cls(known_model(str(value), GATED).name)


@flow(name="promote", flow_run_name="promote-{name}")
def promote(name: Model) -> None:
    """One task; the criteria with both figures are its artifact. A refused challenger fails the run.

    Args:
        name: of the model whose challenger is to be promoted.
    """
    params = load()
    evaluate = partial(evaluate_again, params.evaluate, params.audio, layout=LAYOUT)
    result = plain_task(promotion.promote)(name.value, params.register_models.gate, root=ROOT, evaluate=evaluate)
    page = mlflow_page(f"models/{result.registered}/versions/{result.version}")
    markdown = f"```\n{result.table()}\n```\n\n[Version {result.version} in MLflow]({page})"
    # Told as well as it can be: the alias has moved already.
    Teller()(partial(create_markdown_artifact, markdown=markdown, key="promotion", description=f"Promotion of {name}"))
    if not result.promoted:
        failed = ", ".join(check.criterion for check in result.decision.failed)
        raise TimbreflowError(f"{name} was refused: it fails {failed}; train a better challenger.")


if __name__ == "__main__":
    entry(promote, *sys.argv[1:])
