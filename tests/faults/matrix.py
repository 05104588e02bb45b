"""What is promised when something goes wrong, for each fault and each part of timbreflow, and the test that shows it.

`cells()` gives all of them; `python -m tests.faults.report` runs the tests and writes docs/faults.md.
"""

from dataclasses import dataclass

STAGES = (
    "collect_midi",
    "render_triples",
    "extract_mels",
    "validate_data",
    "train_timbre_metric",
    "train_vqvae",
    "train_glow",
    "train_refiner",
    "train_vocoder",
    "evaluate",
    "report",
    "register_models",
)
TRAININGS = tuple(stage for stage in STAGES if stage.startswith("train_"))
SHARDED = ("collect_midi", "render_triples", "extract_mels")
OTHERS = ("collect_audio", "transfer", "studio", "listen serve", "serve")
TARGETS = (*STAGES, *OTHERS)

_STAGE = "tests/faults/test_stages.py::"
_COMMAND = "tests/faults/test_commands.py::"
_KILLED = "tests/pipeline/test_killed.py::"


@dataclass(frozen=True)
class Cell:
    """A fault in a part.

    Args:
        promise: what a person can rely on; empty where the fault does not apply.
        tests: pytest ids that show it.
        reason: why no test shows it, where there is none.
    """

    promise: str
    tests: tuple[str, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Fault:
    """A fault, and what is promised of stages.

    Args:
        promise: of a stage.
        tests: ids with {stage} in them, for the stages `of`.
        of: stages to which the tests apply.
        reason: for the other stages.
        others: cells of other parts, and of stages with more to show.
    """

    promise: str
    tests: tuple[str, ...]
    others: dict[str, Cell]
    of: tuple[str, ...] = STAGES
    reason: str = ""


_NO_PREFECT = Cell("", reason="does not use Prefect")
_NO_SERVER = Cell("", reason="talks to no server")
_NO_TRAINING = Cell("", reason="trains nothing")
_KEPT = "the old result stays; only a hidden part file may be left; the next call makes it"
_ANSWERS = "every answer that was confirmed is there at the next start"


def _command(promise: str, *tests: str) -> Cell:
    return Cell(promise, tuple(_COMMAND + test for test in tests))


FAULTS: dict[str, Fault] = {
    "kill -9": Fault(
        "nothing half-written; the next start goes on and ends with the bytes of an unbroken run; no run looks alive",
        (_STAGE + "test_kill_9[{stage}]",),
        {
            "transfer": _command(_KEPT, "test_transfer_kill_9"),
            "studio": _command("the next studio deletes what visitors had given", "test_studio_kill_9"),
            "listen serve": _command(_ANSWERS, "test_listen_keeps_every_answer[kill-9]"),
            "serve": _command(
                "what was recorded is whole; the next start deletes what people had sent, and serves",
                "test_serve_kill_9",
            ),
            "collect_audio": _command("what was read is kept; the same bytes at the end", "test_collect_audio[kill-9]"),
        },
    ),
    "SIGTERM": Fault(
        "exit code 143, one sentence, nothing half-written; Cancelled in Prefect, KILLED in MLflow; it can go on",
        (_STAGE + "test_interrupted[sigterm-{stage}]",),
        {
            "transfer": _command(
                "exit code 143; the old result stays, nothing is left", "test_transfer_interrupted[sigterm]"
            ),
            "studio": _command(
                "exit code 0; visitors' files are deleted", "test_studio_interrupted_deletes_its_files[sigterm]"
            ),
            "listen serve": _command(_ANSWERS, "test_listen_keeps_every_answer[sigterm]"),
            "serve": _command(
                "requests that have a place get their answer; exit code 0; nothing is left",
                "test_serve_interrupted[sigterm]",
            ),
            "collect_audio": _command("exit code 143; the next call goes on", "test_collect_audio[sigterm]"),
        },
    ),
    "Ctrl-C": Fault(
        "exit code 130, one sentence, nothing half-written; Cancelled in Prefect, KILLED in MLflow; it can go on",
        (_STAGE + "test_interrupted[ctrl-c-{stage}]",),
        {
            "transfer": _command(
                "exit code 130; the old result stays, nothing is left", "test_transfer_interrupted[ctrl-c]"
            ),
            "studio": _command(
                "exit code 0; visitors' files are deleted", "test_studio_interrupted_deletes_its_files[ctrl-c]"
            ),
            "listen serve": _command(_ANSWERS, "test_listen_keeps_every_answer[ctrl-c]"),
            "serve": _command(
                "requests that have a place get their answer; exit code 0; nothing is left",
                "test_serve_interrupted[ctrl-c]",
            ),
            "collect_audio": _command("exit code 130; the next call goes on", "test_collect_audio[ctrl-c]"),
        },
    ),
    "disk full": Fault(
        "exit code 2, one sentence with the file; after room is made the stage goes on",
        ("tests/pipeline/test_full_disk.py::test_a_full_disk_is_one_sentence_and_the_next_run_goes_on[{stage}]",),
        {
            "train_vqvae": Cell(
                "exit code 2, one sentence with the file; after room is made the stage goes on",
                tuple(
                    "tests/pipeline/test_full_disk.py::test_a_full_disk_is_one_sentence_and_the_next_run_goes_on"
                    f"[train_vqvae@{variant}]"
                    for variant in ("paper", "base")
                ),
            ),
            "register_models": Cell(
                "exit code 2, one sentence; nothing is registered by halves",
                (_STAGE + "test_full_disk_of_the_registry",),
            ),
            "transfer": _command("exit code 2, one sentence; the old result stays", "test_transfer_disk_full"),
            "studio": Cell(
                "the page says so, and the studio goes on",
                reason="needs a browser to upload; it writes as transfer does, and removes uploads at any error",
            ),
            "listen serve": _command(
                "the answer is refused with 503 and a sentence; none is lost; with room again it goes on",
                "test_listen_full_disk_takes_no_answer_and_loses_none",
            ),
            "serve": _command("507 and a sentence; the next request that has room is served", "test_serve_disk_full"),
            "collect_audio": _command(
                "exit code 2, one sentence; the next call goes on", "test_collect_audio_disk_full"
            ),
        },
    ),
    "read-only disk": Fault(
        "exit code 2, one sentence with the file; what was there stays",
        (_STAGE + "test_read_only_disk[{stage}]",),
        {
            "transfer": _command("exit code 2, one sentence", "test_transfer_read_only_disk"),
            "studio": _command(
                "the next folder of the system for temporary files is used", "test_studio_read_only_disk"
            ),
            "listen serve": _command("exit code 2, one sentence", "test_listen_read_only_disk"),
            "serve": _command(
                "--record: exit code 2, one sentence; sounds go to the next folder of the system for temporary files",
                "test_serve_read_only_disk",
            ),
            "collect_audio": _command("exit code 2, one sentence", "test_collect_audio_read_only_disk"),
        },
    ),
    "server down": Fault(
        "Prefect's server goes away in the middle: the same bytes, exit code 0, and one sentence that "
        "it is not shown; where none runs at the start, a temporary one is used",
        (_STAGE + "test_server_that_goes_away[{stage}]",),
        {
            "train_glow": Cell(
                "Prefect's server goes away in the middle: the work ends with the same bytes and exit code 0",
                (
                    _STAGE + "test_server_that_goes_away[train_glow]",
                    _KILLED + "test_a_training_outlives_the_prefect_server",
                    "tests/tracking/test_runs.py::test_a_store_that_fails_for_a_while_loses_nothing",
                ),
            ),
            "register_models": Cell(
                "Prefect's server goes away in the middle, or was never there: exit code 0",
                (
                    _STAGE + "test_server_that_goes_away[register_models]",
                    "tests/pipeline/test_dvc_pipeline.py::test_without_a_server_a_stage_still_runs_and_is_seen_later",
                ),
            ),
            "transfer": Cell(
                "the released model is taken, and it says why",
                tuple(
                    f"tests/tracking/test_connection.py::test_a_store_that_is_not_there_is_said[{address}]"
                    for address in ("http://127.0.0.1:1", "postgresql://lab@127.0.0.1:1/mlflow")
                ),
            ),
            "studio": Cell(
                "as transfer, whose search for a model it uses",
                ("tests/tracking/test_connection.py::test_a_store_that_is_not_there_is_said[http://127.0.0.1:1]",),
            ),
            "listen serve": _NO_SERVER,
            "serve": _command(
                "a model of the registry: exit code 2, one sentence; else the released model, and it says why",
                "test_serve_a_registry_that_is_down",
            ),
            "collect_audio": _NO_SERVER,
        },
    ),
    "server slow": Fault(
        "every answer .2 s late: the same bytes, exit code 0",
        (_STAGE + "test_slow_server[{stage}]",),
        {
            "transfer": Cell(
                "a server that says nothing, or never ends, is left after 10 s for the released model",
                tuple(
                    f"tests/tracking/test_connection.py::test_a_server_that_is_no_mlflow_is_said_and_a_transfer_needs_none[{kind}]"
                    for kind in ("silent", "drips")
                ),
            ),
            "studio": Cell(
                "as transfer",
                (
                    "tests/tracking/test_connection.py::"
                    "test_a_server_that_is_no_mlflow_is_said_and_a_transfer_needs_none[silent]",
                ),
            ),
            "listen serve": _NO_SERVER,
            "serve": _command(
                "a registry that says nothing is left after 10 s: exit code 2, one sentence",
                "test_serve_a_registry_that_is_slow",
            ),
            "collect_audio": _NO_SERVER,
        },
    ),
    "database locked": Fault(
        "MLflow's: exit code 2, one sentence that names it",
        (_STAGE + "test_locked_database_of_mlflow[{stage}]",),
        {
            **{
                stage: Cell(
                    "Prefect's, for a while: the same bytes, exit code 0",
                    (_STAGE + f"test_locked_database_of_prefect_for_a_while[{stage}]",),
                )
                for stage in (*SHARDED, "validate_data")
            },
            "transfer": _command("exit code 2, one sentence", "test_transfer_locked_registry"),
            "studio": Cell("as transfer", (_COMMAND + "test_transfer_locked_registry",)),
            "listen serve": _command("the answer waits, and is saved", "test_listen_locked_database"),
            "serve": _command("exit code 2, one sentence", "test_serve_locked_registry"),
            "collect_audio": Cell("", reason="has no database"),
        },
    ),
    "clock moved": Fault(
        "set back by 400 days in the middle: the same bytes, exit code 0",
        (_STAGE + "test_clock_set_back[{stage}]",),
        {
            "transfer": _command("the result is made", "test_transfer_clock_set_back"),
            "studio": Cell("", reason="takes its times from a clock that nobody sets (time.monotonic)"),
            "listen serve": _command("answers are taken and kept", "test_listen_clock_set_back"),
            "serve": _command(
                "requests are served and recorded, under the time that the clock says", "test_serve_clock_set_back"
            ),
            "collect_audio": _command("the same bytes", "test_collect_audio_clock_set_back"),
        },
    ),
    "corrupt cache": Fault(
        "unfinished work in .scratch/ that was cut off is made again or named in one sentence; so is an input",
        (_STAGE + "test_unfinished_work_that_is_cut_off[{stage}]",),
        {
            **{
                stage: Cell(
                    "an input that was cut off: exit code 2, one sentence with the file; what was there stays",
                    (_STAGE + f"test_input_that_is_not_whole[cut-{stage}]",),
                )
                for stage in ("validate_data", "evaluate", "report", "register_models")
            },
            **{
                stage: Cell(
                    "unfinished work, or an input, that was cut off is made again or named in one sentence",
                    (
                        _STAGE + f"test_unfinished_work_that_is_cut_off[{stage}]",
                        _STAGE + f"test_input_that_is_not_whole[cut-{stage}]",
                    ),
                )
                for stage in ("render_triples", "extract_mels", *TRAININGS)
            },
            "transfer": _command(
                "a model that was cut off: exit code 2, one sentence",
                "test_transfer_broken_model[cut-config.json]",
                "test_transfer_broken_model[cut-weights.safetensors]",
            ),
            "studio": Cell(
                "a sound that is none is refused in a sentence",
                ("tests/app/studio/test_people.py::test_text_named_wav_is_refused",),
            ),
            "listen serve": Cell(
                "exit code 2, one sentence", ("tests/app/listening/test_answers.py::test_a_broken_database_is_refused",)
            ),
            "serve": _command(
                "a model that was cut off: no start, exit code 2, one sentence",
                "test_serve_broken_model[cut-config.json]",
                "test_serve_broken_model[cut-weights.safetensors]",
            ),
            "collect_audio": Cell(
                "files that are broken are named, the others are taken",
                ("tests/stages/test_collect_audio.py::test_bad_files_are_named_with_their_reason",),
            ),
        },
    ),
    "damaged cache of DVC": Fault(
        "a flipped bit: exit code 2, one sentence with the file, which is removed; DVC makes it again, the same bytes; "
        "what is missing DVC itself names and makes again",
        (
            _STAGE + "test_damaged_cache_of_dvc[{stage}]",
            "tests/tracking/test_cache.py::test_what_dvc_s_cache_lacks_dvc_names_and_makes_again",
        ),
        dict.fromkeys(OTHERS, Cell("", reason="reads nothing that DVC stores")),
    ),
    "half-pulled remote": Fault(
        "an input that is missing: exit code 2, one sentence with the file; what was there stays",
        (_STAGE + "test_input_that_is_not_whole[missing-{stage}]",),
        {
            "collect_midi": Cell("", reason="its inputs are no outputs of DVC"),
            "transfer": _command(
                "a model without a file: exit code 2, one sentence",
                "test_transfer_broken_model[missing-config.json]",
                "test_transfer_broken_model[missing-weights.safetensors]",
            ),
            "studio": Cell("", reason="needs nothing of the remote: as transfer"),
            "listen serve": Cell(
                "a missing clip is named", ("tests/app/listening/test_study.py::test_a_missing_clip_is_named",)
            ),
            "serve": _command(
                "a model without a file: no start, exit code 2, one sentence",
                "test_serve_broken_model[missing-config.json]",
                "test_serve_broken_model[missing-weights.safetensors]",
            ),
            "collect_audio": Cell("", reason="needs nothing of the remote"),
        },
    ),
    "NaN loss": Fault(
        "exit code 2, one sentence with the step and the last good checkpoint; the old model stays",
        (_STAGE + "test_loss_that_is_not_a_number[{stage}]",),
        dict.fromkeys((*OTHERS,), _NO_TRAINING),
        of=TRAININGS,
        reason="trains nothing",
    ),
    "out of memory": Fault(
        "a MemoryError that is raised: exit code 2, one sentence; old outputs stay; the next start works",
        (_STAGE + "test_memory_that_ends[{stage}]",),
        {
            "render_triples": Cell(
                "one sentence; a worker that the system ends is replaced, and after three rounds the stage ends",
                (
                    _STAGE + "test_memory_that_ends[render_triples]",
                    "tests/flows/test_runners.py::test_what_was_lost_is_run_again_and_nothing_else",
                    "tests/flows/test_runners.py::test_a_shard_that_kills_its_worker_ends_the_stage_with_one_sentence",
                ),
            ),
            "collect_midi": Cell(
                "a file that takes too much memory is rejected, and the others are read",
                ("tests/notes/test_parts.py::test_no_file_stops_or_fills_the_others",),
            ),
            "transfer": _command("exit code 2, one sentence; the old result stays", "test_transfer_memory_that_ends"),
            "studio": Cell("", reason="cannot be made to hit a job alone; the code is that of transfer"),
            "listen serve": Cell("", reason="a request takes at most 10 kB"),
            "serve": Cell(
                "507 and a sentence; the next request is served",
                tuple(
                    f"tests/app/serving/test_server.py::test_a_transfer_that_fails_is_said_and_leaves_nothing[{kind}]"
                    for kind in ("memory", "torch-memory")
                ),
            ),
            "collect_audio": Cell("", reason="reads in blocks of constant size; as extract_mels otherwise"),
        },
    ),
    "two at once": Fault(
        "the second waits, says so, and both end with the same bytes",
        (_STAGE + "test_two_at_once[{stage}]",),
        {
            "transfer": _command("both succeed; the file is whole", "test_transfer_two_at_once"),
            "studio": _command("the second says that the port is taken; the first goes on", "test_studio_two_at_once"),
            "listen serve": _command("one port: a sentence; two ports: no answer is lost", "test_listen_two_at_once"),
            "serve": _command(
                "one port: a sentence; one folder of --record: every row is whole", "test_serve_two_at_once"
            ),
            "collect_audio": _command(
                "the second waits or is told in a sentence; the result is whole", "test_collect_audio_two_at_once"
            ),
        },
    ),
}
for _name, _what in {
    "PREFECT_API_URL in a profile": "another project's profile and home of Prefect are neither used nor written to",
    "proxy variables": "dead proxies stand in no way to 127.0.0.1",
    "no HOME": "nothing needs it",
    "LC_ALL=C": "names with umlauts work",
    "path with spaces": "works as elsewhere, with the same bytes",
}.items():
    FAULTS[_name] = Fault(
        _what,
        (_STAGE + "test_odd_environment[{stage}]",),
        {
            "transfer": _command(_what, "test_transfer_odd_environment"),
            "studio": _command(_what, "test_studio_odd_environment"),
            "listen serve": _command(_what, "test_listen_odd_environment"),
            "serve": _command(_what, "test_serve_odd_environment"),
            "collect_audio": _command(_what, "test_collect_audio_odd_environment"),
        },
    )


def cells() -> dict[tuple[str, str], Cell]:
    """Every cell, by fault and part."""
    found = {}
    for name, fault in FAULTS.items():
        for target in TARGETS:
            cell = fault.others.get(target)
            if cell is None:
                applies = target in fault.of
                tests = tuple(test.format(stage=target) for test in fault.tests) if applies else ()
                cell = Cell(fault.promise if applies else "", tests, "" if applies else fault.reason)
            found[name, target] = cell
    return found
