"""A request: multipart/form-data with sound files and options, checked before it costs anything.

Names of uploads are not looked at: files are kept as content-01, style-01 ... in a private folder.
"""

import dataclasses
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request
from starlette.types import Message, Receive

from timbreflow.app.serving.limits import DECODED, MOST_PAIRS, MOST_STEPS, Limits
from timbreflow.app.web import Refused
from timbreflow.audio.files import audio_info
from timbreflow.errors import TimbreflowError
from timbreflow.inference.style import MOST_STYLES
from timbreflow.inference.synthesis import TransferArguments, TransferOptions

MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "ogg": "audio/ogg", "mp3": "audio/mpeg"}
OPTIONS = tuple(field.name for field in dataclasses.fields(TransferOptions))
_PARSER = TypeAdapter(TransferOptions)
LONGEST_FIELD = 1024
"""Bytes of a field that is no file."""


@dataclass(frozen=True)
class Job:
    """What is asked for.

    Attributes:
        pairs: each content and the styles that it gets, in a private folder.
        options: of all of them.
        format: of the results, a key of `MEDIA_TYPES`.
        seconds: of the contents together.
    """

    pairs: tuple[tuple[Path, tuple[Path, ...]], ...]
    options: TransferArguments
    format: str
    seconds: float

    def said(self, text: str, folder: Path) -> str:
        """A text on files of a folder in which they are called what their sender calls them."""
        for path in (path for content, styles in self.pairs for path in (content, *styles)):
            text = text.replace(str(path), _title(path, alone=len(self.pairs) == 1))
        return _sentence(text.replace(f"{folder}/", ""))


async def read_job(request: Request, folder: Path, limits: Limits, *, batch: bool) -> Job:
    """Receive a request and check it.

    Args:
        request: whose body was not read.
        folder: empty, gets the sounds.
        limits: of the server.
        batch: several contents, each with one style (or one style for all); else one content with up to four styles.

    Raises:
        Refused: it is too large, no form, a field is missing, unknown or wrong, or a sound cannot be read.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise Refused("Send multipart/form-data, as by curl -F content=@melody.wav -F style=@cello.wav.", 415)
    given = request.headers.get("content-length", "")
    if given.isdecimal() and int(given) > limits.max_bytes:
        raise _too_large(limits)
    counted = Request(request.scope, _counted(request.receive, limits))
    most = MOST_PAIRS if batch else 1
    form = await counted.form(
        max_files=most + max(most, MOST_STYLES), max_fields=len(OPTIONS) + 1, max_part_size=LONGEST_FIELD
    )
    try:
        contents, styles = await _stored(form, "content", folder), await _stored(form, "style", folder)
        fields = _fields(form)
    finally:
        await form.close()
    made_as = fields.pop("format", "wav")
    if made_as not in MEDIA_TYPES:
        raise Refused(f"format is {made_as!r}; choose {' or '.join(MEDIA_TYPES)}.", 422)
    options = options_of(fields)
    pairs = _pairs(contents, styles, batch=batch)
    seconds = await run_in_threadpool(_require_usable, contents, styles, limits)
    return Job(pairs, options, made_as, seconds)


def options_of(fields: dict[str, str]) -> TransferArguments:
    """Fields of a form as options of a transfer.

    Raises:
        Refused: a field is unknown or its value means nothing.
    """
    for name in fields:
        if name not in OPTIONS:
            raise Refused(
                f"{name[:40]!r} is no field; the fields are content, style, format, {', '.join(OPTIONS)}.", 422
            )
    values: dict[str, Any] = dict(fields)
    if "blend" in values:
        values["blend"] = [part for part in values["blend"].split(",") if part.strip()]
    try:
        options = _PARSER.validate_python(values)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        raise Refused(f"{problem['loc'][0]} is {str(problem['input'])[:40]!r}: {problem['msg']}.", 422) from error
    except TimbreflowError as error:
        raise Refused(str(error), 422) from error
    if not 0 <= options.seed < 2**63:
        raise Refused(f"seed is {options.seed}; give a number from 0 to {2**63 - 1}.", 422)
    if options.fit_style > MOST_STEPS:
        raise Refused(f"fit_style is {options.fit_style} steps; give at most {MOST_STEPS}.", 422)
    return cast(TransferArguments, dataclasses.asdict(options))


def _counted(receive: Receive, limits: Limits) -> Receive:
    """Refuses a body that is longer than it said, or did not say how long it is."""
    n_bytes = 0

    async def receive_counted() -> Message:
        nonlocal n_bytes
        message = await receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > limits.max_bytes:
            raise _too_large(limits)
        return message

    return receive_counted


def _too_large(limits: Limits) -> Refused:
    return Refused(f"The request has over {limits.max_bytes / 1e6:g} MB; send less, or compressed sound.", 413)


async def _stored(form: FormData, role: str, folder: Path) -> list[Path]:
    """The files of a field."""
    stored = []
    for number, upload in enumerate(form.getlist(role), 1):
        if not isinstance(upload, UploadFile):
            raise Refused(f"{role} is text; send a file, as by curl -F {role}=@{role}.wav.", 422)
        path = folder / f"{role}-{number:02}"
        await run_in_threadpool(_copied, upload, path)
        stored.append(path)
    return stored


def _copied(upload: UploadFile, path: Path) -> None:
    with open(path, "wb") as file:
        shutil.copyfileobj(upload.file, file)
    upload.file.close()


def _fields(form: FormData) -> dict[str, str]:
    """Those that are no sounds."""
    given: dict[str, str] = {}
    for name, value in form.multi_items():
        if name in ("content", "style"):
            continue
        if isinstance(value, UploadFile):
            raise Refused(f"{name[:40]!r} is a file; only content and style are files.", 422)
        if name in given:
            raise Refused(f"{name[:40]!r} is there twice; give it once.", 422)
        given[name] = value.strip()
    return given


def _pairs(
    contents: Sequence[Path], styles: Sequence[Path], *, batch: bool
) -> tuple[tuple[Path, tuple[Path, ...]], ...]:
    for role, files in (("content", contents), ("style", styles)):
        if not files:
            raise Refused(f"{role} is missing; send a sound file, as by curl -F {role}=@{role}.wav.", 422)
    if batch:
        if len(styles) not in (1, len(contents)):
            raise Refused(
                f"There are {len(contents)} contents and {len(styles)} styles; "
                "send a style for each content in the same order, or one for all.",
                422,
            )
        return tuple((content, (styles[min(number, len(styles) - 1)],)) for number, content in enumerate(contents))
    if len(contents) > 1:
        raise Refused(f"There are {len(contents)} contents; send one, or all of them to /batch.", 422)
    return ((contents[0], tuple(styles)),)


def _require_usable(contents: Sequence[Path], styles: Sequence[Path], limits: Limits) -> float:
    """Seconds of all contents; refuses files that are no sound or too long, by their headers."""
    alone = len(contents) == 1
    total, n_bytes = {"content": 0.0, "style": 0.0}, 0
    for path in (*contents, *styles):
        try:
            info = audio_info(path)
        except TimbreflowError as error:
            raise Refused(_sentence(str(error).replace(str(path), _title(path, alone=alone))), 415) from error
        role = path.name.partition("-")[0]
        total[role] += info.seconds
        n_bytes += 4 * info.n_samples * info.channels
        if total[role] > limits.max_seconds:
            raise Refused(
                f"A request may have {limits.max_seconds:g} s of {role}, and this has {total[role]:.0f} s; cut it.", 413
            )
        if n_bytes > DECODED * limits.max_bytes:
            raise Refused(
                f"The sounds have over {DECODED * limits.max_bytes / 1e6:g} MB when decoded; "
                "send fewer channels or a lower sample rate.",
                413,
            )
    return total["content"]


def _title(path: Path, *, alone: bool) -> str:
    """What people call content-01 or style-02."""
    role, _, number = path.name.partition("-")
    return f"the {role}" if alone and number == "01" else f"{role} {int(number)}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
