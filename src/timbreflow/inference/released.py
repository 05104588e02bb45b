"""Where the released weights lie, inside and outside a checkout."""

import os
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.models.catalogue import is_bundle, known_model

VARIABLE = "TIMBREFLOW_MODELS"
"""Names a folder that holds vqvae/, glow/ and vocoder/, and is looked into alone where it is set."""
PACKAGE = Path(__file__).resolve().parents[1]


def given_folder() -> Path | None:
    """The folder that TIMBREFLOW_MODELS names, or None."""
    given = os.environ.get(VARIABLE)
    return Path(os.path.expanduser(given)) if given else None


def released_folder(name: str) -> Path:
    """Folder of the released weights of a model.

    They are looked for in the folder of TIMBREFLOW_MODELS where that is set, else in released/ of the checkout that
    timbreflow was installed from with `pip install -e`, else in the installed package, whose wheel has them.

    Args:
        name: vqvae or glow.

    Raises:
        TimbreflowError: there is no such model, or its weights are not there.
    """
    model = known_model(name)
    given = given_folder()
    folders = [given] if given else [PACKAGE.parents[1] / "released", PACKAGE / "released"]
    for folder in folders:
        if is_bundle(folder / model.name):
            return folder / model.name
    raise TimbreflowError(
        f"The weights of {model.name} are not in {' nor in '.join(map(str, folders))}; "
        f"set {VARIABLE} to the folder that holds {model.name}/ and vocoder/."
    )
