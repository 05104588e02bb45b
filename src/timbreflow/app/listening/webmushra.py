"""The same comparisons as a configuration of webMUSHRA, which pymushra serves too.

Format: https://github.com/audiolabs/webMUSHRA/blob/master/doc/experimenter.md; `webmushra.schema.json` says the same as
a JSON schema, as far as these pages go.
"""

import json
import shutil
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema

from timbreflow.app.listening.study import ANCHOR, LABELS, QUESTIONS, REFERENCE, Study, Trial, write_yaml
from timbreflow.errors import TimbreflowError

FOLDER = "configs/resources/timbreflow"
"""Where the clips lie in a checkout of webMUSHRA; paths are relative to its root."""


def write_webmushra(folder: Path, study: Study) -> None:
    """Write FOLDER/webmushra/configs/{timbreflow.yaml, resources/timbreflow/*.wav}, to be copied over a webMUSHRA."""
    config = webmushra_config(study)
    check_webmushra(config)
    place = folder / "webmushra"
    (place / FOLDER).mkdir(parents=True)
    for name in sorted({name for trial in study.trials for name in trial.files if name != trial.clips.get(ANCHOR)}):
        shutil.copyfile(folder / name, place / _path(name))
    write_yaml(place / "configs" / "timbreflow.yaml", config)


def webmushra_config(study: Study) -> dict[str, Any]:
    """The configuration, as YAML will hold it."""
    pages: list[Any] = ["random", *(_page(trial) for trial in study.trials)]
    return {
        "testname": study.title,
        "testId": f"timbreflow_{study.testset}",
        "bufferSize": 2048,
        "stopOnErrors": True,
        "showButtonPreviousPage": False,
        "remoteService": "service/write.php",
        "pages": [
            {"type": "generic", "id": "consent", "name": study.title, "content": study.consent.replace("\n\n", "<br>")},
            pages,
            {
                "type": "finish",
                "name": "Thank you",
                "content": "Your answers are sent with the button.",
                "showResults": False,
                "writeResults": True,
            },
        ],
    }


def check_webmushra(config: Any) -> None:
    """Compare a configuration with the schema.

    Raises:
        TimbreflowError: it is not what webMUSHRA reads.
    """
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_schema()).iter_errors(config))
    if error is not None:
        where = "/".join(map(str, error.absolute_path)) or "the top"
        raise TimbreflowError(
            f"The webMUSHRA export is invalid at {where}: {error.message}; this is a fault of timbreflow: report it."
        )


@cache
def _schema() -> Any:
    return json.loads((resources.files("timbreflow.app.listening") / "webmushra.schema.json").read_text("utf-8"))


def _path(name: str) -> str:
    return f"{FOLDER}/{Path(name).name}"


def _page(trial: Trial) -> dict[str, Any]:
    stimuli = {name: _path(file) for name, file in trial.clips.items() if name not in (REFERENCE, ANCHOR)}
    page = {
        "id": trial.id,
        "name": "Listen",
        "content": f"{QUESTIONS[trial.question]} ({LABELS[trial.question]} is what this page calls the reference.)",
        "showWaveform": False,
        "enableLooping": True,
        # webMUSHRA shows the reference of an abx trial as it is: the first clip.
        "reference": _path(trial.reference or next(iter(trial.clips.values()))),
        "stimuli": stimuli,
    }
    if trial.kind != "mushra":
        return {"type": "paired_comparison", **page}
    # It adds the hidden reference itself, and makes the anchor by its own filter.
    return {
        "type": "mushra",
        **page,
        "createAnchor35": True,
        "createAnchor70": False,
        "randomize": True,
        "showConditionNames": False,
        "strict": True,
    }
