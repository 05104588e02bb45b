"""What the server makes of a request, and what it refuses: a status, one sentence, no file left."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.app.serving.conftest import CONTENT, FILES, RATE, STYLE, Running, sound_file
from tests.inference.tiny import melody
from timbreflow.app.serving import server as module
from timbreflow.app.serving.forms import options_of

C, S = FILES
LONG = sound_file(melody(5, RATE), kind="OGG")
SILENT = sound_file(np.zeros(RATE))
SHORT = sound_file(melody(0.2, RATE))
WIDE = sound_file(np.zeros((48000 * 3, 8)), rate=48000, kind="FLAC")
"""3 s of nothing in 8 channels: a few kilobytes, 4.6 MB when decoded."""

PART = b'--x\r\nContent-Disposition: form-data; name="content"; filename="a"\r\n\r\n'


def file(role: str, data: bytes) -> tuple[str, tuple[str, bytes]]:
    return role, (f"{role}.wav", data)


@pytest.mark.parametrize(
    ("files", "fields", "status", "part"),
    [
        ([C], {}, 422, "style is missing"),
        ([S], {}, 422, "content is missing"),
        ([C, S, C], {}, 422, "There are 2 contents; send one, or all of them to /batch."),
        ([C], {"style": "cello"}, 422, "style is text; send a file"),
        ([*FILES, file("seed", b"1")], {}, 422, "'seed' is a file"),
        (FILES, {"strenght": "1"}, 422, "'strenght' is no field; the fields are content, style, format, temperature"),
        (FILES, {"temperature": "hot"}, 422, "temperature is 'hot'"),
        (FILES, {"temperature": "nan"}, 422, "temperature is nan; give a number that is 0 or more"),
        (FILES, {"strength": "9"}, 422, "strength is 9.0; give a number from 0 to 1.5"),
        (FILES, {"seed": "1.5"}, 422, "seed is '1.5'"),
        (FILES, {"seed": "-1"}, 422, "seed is -1; give a number from 0"),
        (FILES, {"seed": str(2**63)}, 422, "give a number from 0 to 9223372036854775807"),
        (FILES, {"seed": ["1", "2"]}, 422, "'seed' is there twice"),
        (FILES, {"fit_style": "1000"}, 422, "give at most 200"),
        (FILES, {"mode": "sing"}, 422, "mode is 'sing'"),
        (FILES, {"mode": "convert"}, 422, "needs a flow"),
        (FILES, {"blend": "1,2"}, 422, "2 weights for 1 styles"),
        (FILES, {"blend": "x"}, 422, "blend is 'x'"),
        (FILES, {"format": "../x"}, 422, "choose wav or flac or ogg or mp3"),
        (FILES, {"mode": "x" * 2000}, 400, "exceeded maximum size"),
        ([C, *[S] * 5], {}, 400, "Too many files"),
        ([C, file("style", b"la la la")], {}, 415, "The style cannot be read as sound"),
        ([C, S, file("style", b"la la la")], {}, 415, "Style 2 cannot be read as sound"),
        ([file("content", b""), S], {}, 415, "The content is empty"),
        ([file("content", CONTENT[:20000]), S], {}, 415, "The content is cut off"),
        ([C, file("style", SILENT)], {}, 422, "The style is silent"),
        ([C, file("style", SHORT)], {}, 422, "The style"),
        ([file("content", LONG), S], {}, 413, "may have 4 s of content, and this has 5 s"),
        ([C, file("style", LONG)], {}, 413, "may have 4 s of style"),
        ([file("content", WIDE), S], {}, 413, "over 3.2 MB when decoded"),
        ([file("content", bytes(500_000)), S], {}, 413, "over 0.4 MB"),
    ],
)
def test_what_cannot_be_served_is_said(shared: Running, files: Any, fields: Any, status: int, part: str) -> None:
    answer = shared.client.post("/transfer", files=files, data=fields)
    sentence = answer.json()["error"]
    assert (answer.status_code, set(answer.json())) == (status, {"error"}), sentence
    assert part in sentence and str(shared.folder) not in sentence and "\n" not in sentence
    assert sentence.endswith(".") and not sentence.endswith("..")
    shared.until(shared.is_empty)


@pytest.mark.parametrize(
    ("body", "kind", "status", "part"),
    [
        (b"{}", "application/json", 415, "curl -F content=@melody.wav"),
        (b"content=1&style=2", "application/x-www-form-urlencoded", 415, "multipart/form-data"),
        (b"content", "multipart/form-data", 400, "Missing boundary"),
        (b"no form", "multipart/form-data; boundary=x", 400, "Invalid multipart data"),
        (PART + b"abc", "multipart/form-data; boundary=x", 422, "content is missing"),
    ],
)  # fmt: skip
def test_what_is_no_form_is_said(shared: Running, body: bytes, kind: str, status: int, part: str) -> None:
    answer = shared.client.post("/transfer", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status and part in answer.json()["error"]


def test_a_body_that_does_not_say_how_long_it_is_is_counted(shared: Running) -> None:
    def parts() -> Iterator[bytes]:
        yield PART
        for _ in range(500):
            yield bytes(1000)

    answer = shared.client.post(
        "/transfer", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 413 and "over 0.4 MB" in answer.json()["error"]


def test_a_slow_upload_gives_its_place_back(shared: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UPLOAD_SECONDS", 0.1)

    def parts() -> Iterator[bytes]:
        yield b"--x\r\n"
        shared.until(lambda: shared.server.workers.taken == 1)
        shared.until(lambda: shared.server.workers.taken == 0)

    answer = shared.client.post(
        "/transfer", content=parts(), headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert answer.status_code == 408 and "within 0.1 s" in answer.json()["error"]


@pytest.mark.parametrize(
    "name", ["../../../../tmp/evil.wav", "/etc/passwd", "a\\..\\b.wav", "x" * 1000, ".raw", "\x00.wav"]
)
def test_names_of_uploads_are_not_used(shared: Running, name: str) -> None:
    plain = shared.post()
    shared.until(shared.is_empty)
    around = set(shared.folder.parent.rglob("*"))
    answer = shared.post(files=[("content", (name, CONTENT)), ("style", (name, STYLE))])
    assert answer.status_code == 200 and answer.content == plain.content
    shared.until(shared.is_empty)
    assert set(shared.folder.parent.rglob("*")) == around


def test_fields_become_options() -> None:
    options = options_of({"seed": "7", "strength": "0.5", "blend": "0.7, 0.3", "stereo": "mid", "transpose": "-12"})
    chosen = {"seed": 7, "strength": 0.5, "blend": [0.7, 0.3], "stereo": "mid", "transpose": -12.0}
    assert {name: options[name] for name in chosen} == chosen  # type: ignore[literal-required]
    assert (options["temperature"], options["mode"]) == (0.25, "sample")
