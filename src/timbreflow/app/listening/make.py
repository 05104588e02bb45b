"""`timbreflow listen make`: trials and level-matched clips from the sound of the systems on a frozen test set."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyloudnorm
import torch
from numpy.typing import NDArray
from scipy.signal import butter, sosfiltfilt

from timbreflow.app.listening.study import ANCHOR, HEADPHONES, KINDS, REFERENCE, Study, Trial, write_study
from timbreflow.app.listening.webmushra import write_webmushra
from timbreflow.audio.files import write_audio
from timbreflow.errors import TimbreflowError
from timbreflow.evaluation.clips import EvaluationClips
from timbreflow.evaluation.config import EvaluationConfig
from timbreflow.evaluation.systems import SYSTEMS, batch_seed
from timbreflow.files import atomic_directory
from timbreflow.models.devices import resolve_device
from timbreflow.stages.layout import Layout
from timbreflow.testsets.evaluate import built_systems, require_system
from timbreflow.testsets.frozen import SAMPLE_RATE, TEST_SETS, read_released, require_built
from timbreflow.testsets.weights import absence, find_weights

Sound = NDArray[np.float32]

LUFS = -23.0
"""EBU R 128."""
PEAK = 0.89
"""-1 dBFS. Where a clip would pass it, all clips of the study become softer by the same amount."""
TRIALS_PER_TRIPLE = 2
"""So a study of 24 trials has the sound of 12 triples."""
CATCHES = 3
"""Catch trials; each is given twice."""
LONGEST = 24
"""Trials of one listener where nothing else is asked for: 15 to 20 minutes."""

CONSENT = """\
You will hear short pieces of music, made by computer programs, and say which ones you find nearer to a reference. \
It takes about {minutes} minutes. There are no right or wrong opinions.

Your answers are stored without your name, your address or anything else that tells who you are. You may stop at any \
time, close the page, and go on later in the same browser; what you have answered until then is kept and used.

Please use headphones, sit in a quiet place, and set the volume so that it is comfortable."""


def make_study(
    out: Path,
    testset: str,
    systems: Sequence[str],
    config: EvaluationConfig,
    *,
    layout: Layout,
    trials: int = 24,
    kinds: Sequence[str] = KINDS,
    per_listener: int = 0,
    listeners: int = 20,
    seed: int = 0,
    title: str = "Which sounds nearer?",
    say: Callable[[str], None] = print,
) -> Study:
    """Write OUT/{study.yaml, clips/, webmushra/}: all of it or nothing.

    Args:
        out: folder that is not there yet, or is empty.
        testset: artificial, seen or real, as built below data/testsets.
        systems: at least two rows of the table.
        config: section `evaluate`.
        layout: paths.
        trials: in all; two thirds are AB, the others ABX and MUSHRA.
        kinds: of trials.
        per_listener: trials of one listener; 0 is all of them, at most `LONGEST`.
        listeners: how many are planned.
        seed: of all draws.
        title: on the page.
        say: gets sentences on what takes time.

    Raises:
        TimbreflowError: a name or number is wrong, the set is not built, or a system's weights are missing.
    """
    if testset not in TEST_SETS:
        raise TimbreflowError(f"There is no test set {testset!r}; choose from {', '.join(TEST_SETS)}.")
    for system in systems:
        require_system(system)
    if len(set(systems)) < 2 or len(set(systems)) < len(systems):
        raise TimbreflowError(f"--systems names {', '.join(systems) or 'nothing'}; name at least two, each once.")
    if not kinds or not set(kinds) <= set(KINDS):
        raise TimbreflowError(f"--kinds is {', '.join(kinds) or 'empty'}; choose from {', '.join(KINDS)}.")
    if trials < len(kinds) or per_listener < 0 or per_listener > trials or listeners < 1:
        raise TimbreflowError(
            f"--trials {trials}, --per-listener {per_listener} and --listeners {listeners} do not fit together; give "
            f"at least one trial of each kind ({len(kinds)}), --per-listener from 0 to {trials}, and at least "
            "1 listener."
        )
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TimbreflowError(f"{out} exists and is not an empty folder; name another folder.")
    for system in systems:
        if SYSTEMS[system].kind == "model" and find_weights(layout, system) is None:
            raise TimbreflowError(
                f"{system} has no sound to play, since {absence(layout, system)}; train it with `make run`, or leave "
                "it out of --systems."
            )
    released = read_released(layout.released_testsets, testset)
    built = layout.testsets / testset
    require_built(built, released)

    draw = np.random.default_rng(seed)
    everything = sorted(set(released.manifest["triple_id"]))
    number = min(len(everything), max(CATCHES + 1, -(-trials // TRIALS_PER_TRIPLE)))
    triples = [everything[index] for index in sorted(draw.choice(len(everything), number, replace=False))]
    clips = EvaluationClips(built, testset, sample_rate=SAMPLE_RATE, max_triples=0, only=triples)
    sounds = _sounds(clips, systems, config, layout=layout, say=say)
    planned = plan_trials(triples, systems, trials=trials, kinds=kinds, draw=draw)
    each = per_listener or min(trials, LONGEST)
    study = Study(
        format=1,
        title=title,
        consent=CONSENT.format(minutes=5 * -(-(each + 2 * CATCHES + 8) // 10)),
        testset=testset,
        test_digest=released.checksums.digest,
        seed=seed,
        lufs=0.0,
        systems={name: SYSTEMS[name].label for name in systems},
        per_listener=each,
        listeners=listeners,
        trials=planned,
        training=[_check_trial("training", "timbre", triples[-1])],
        catches=[
            _check_trial(f"catch-{index + 1}", ("notes", "timbre")[index % 2], triples[index])
            for index in range(CATCHES)
        ],
        headphones=headphone_trials(draw),
    )
    used = {name for trial in (*study.trials, *study.training, *study.catches) for name in trial.files}
    with atomic_directory(out) as folder:
        matched, lufs = match_loudness({name: sounds[name] for name in sorted(used)}, SAMPLE_RATE)
        (folder / "clips").mkdir()
        for name, sound in matched.items():
            write_audio(folder / name, sound, SAMPLE_RATE)
        for trial in study.headphones:
            for name, file in trial.clips.items():
                write_audio(folder / file, headphone_tone(name), SAMPLE_RATE)
        study = replace(study, lufs=round(lufs, 2))
        write_study(folder, study)
        write_webmushra(folder, study)
    return study


def plan_trials(
    triples: Sequence[str], systems: Sequence[str], *, trials: int, kinds: Sequence[str], draw: np.random.Generator
) -> list[Trial]:
    """Trials in which every pair of systems stands as often as any other, as far as the number allows.

    Args:
        triples: ids, taken in turn.
        systems: names.
        trials: in all.
        kinds: ab gets what is left where abx and mushra get a sixth each.
        draw: shuffles pairs and triples.
    """
    share = max(1, trials // 6)
    counts = {kind: share for kind in kinds if kind != "ab"}
    if "ab" in kinds:
        counts["ab"] = trials - sum(counts.values())
    else:
        counts[kinds[0]] += trials - sum(counts.values())
    planned: list[Trial] = []
    pairs = list(itertools.combinations(systems, 2))
    for kind in (kind for kind in KINDS if kind in counts):
        compared = list(itertools.product(pairs, ("notes", "timbre") if kind == "ab" else ("same",)))
        order: list[int] = []
        while len(order) < counts[kind]:
            order += list(draw.permutation(len(compared)))
        places = itertools.cycle(draw.permutation(len(triples)))
        for number in range(counts[kind]):
            triple, name = triples[next(places)], f"{kind}-{number + 1:03d}"
            if kind == "mushra":
                clips = {s: _file(triple, s) for s in systems}
                clips |= {REFERENCE: _file(triple, "target"), ANCHOR: _file(triple, ANCHOR)}
                planned.append(Trial(name, kind, "near", triple, clips, _file(triple, "target"), ""))
                continue
            pair, question = compared[order[number]]
            reference = {"notes": _file(triple, "content"), "timbre": _file(triple, "style"), "same": ""}[question]
            clips = {system: _file(triple, system) for system in pair}
            planned.append(Trial(name, kind, question, triple, clips, reference, ""))
    return planned


def _file(triple: str, name: str) -> str:
    return f"clips/{triple}-{name}.wav"


def _check_trial(name: str, question: str, triple: str) -> Trial:
    """The true result against the input that keeps nothing of what is asked for."""
    wrong, reference = ("style", "content") if question == "notes" else ("content", "style")
    clips = {"target": _file(triple, "target"), wrong: _file(triple, wrong)}
    return Trial(name, "ab", question, triple, clips, _file(triple, reference), "target")


def headphone_trials(draw: np.random.Generator) -> list[Trial]:
    """Six trials of three tones at 200 Hz: loud, soft by 6 dB, and loud with one channel inverted.

    Over loudspeakers the channels of the inverted one cancel, so that it seems softest (Woods et al. 2017, "Headphone
    screening to facilitate web-based auditory experiments"). Each order of the tones stands once.
    """
    orders = list(itertools.permutations(("loud", "soft", "inverted")))
    return [
        Trial(
            f"headphones-{number + 1}", HEADPHONES, "", "", {n: f"clips/tone-{n}.wav" for n in orders[at]}, "", "soft"
        )
        for number, at in enumerate(draw.permutation(len(orders)))
    ]


def headphone_tone(name: str) -> Sound:
    """One second of 200 Hz [2, N] with ramps of 100 ms; loud is -12 dBFS."""
    seconds = np.arange(SAMPLE_RATE) / SAMPLE_RATE
    ramp = np.clip(np.minimum(seconds, seconds[::-1]) / 0.1, 0, 1)
    left = 10 ** ((-18 if name == "soft" else -12) / 20) * np.sin(2 * np.pi * 200 * seconds) * ramp
    return np.stack([left, -left if name == "inverted" else left]).astype(np.float32)


def match_loudness(sounds: Mapping[str, Sound], sample_rate: int) -> tuple[dict[str, Sound], float]:
    """Every clip at one loudness (ITU-R BS.1770), and which: `LUFS`, or less where a peak would pass `PEAK`.

    Args:
        sounds: name to sound [N].
        sample_rate: in Hz.

    Raises:
        TimbreflowError: a clip is silent.
    """
    meter = pyloudnorm.Meter(sample_rate)
    gains = {}
    for name, sound in sounds.items():
        loudness = float(meter.integrated_loudness(sound.astype(np.float64)))
        if not np.isfinite(loudness):
            raise TimbreflowError(
                f"{name} is silent, so it cannot be compared; choose other systems or another --seed."
            )
        gains[name] = LUFS - loudness
    over = max(20 * np.log10(np.abs(sounds[name]).max() * 10 ** (gains[name] / 20) / PEAK) for name in sounds)
    softer = max(0.0, float(over))
    matched = {name: (sound * 10 ** ((gains[name] - softer) / 20)).astype(np.float32) for name, sound in sounds.items()}
    return matched, LUFS - softer


def _sounds(
    clips: EvaluationClips,
    systems: Sequence[str],
    config: EvaluationConfig,
    *,
    layout: Layout,
    say: Callable[[str], None],
) -> dict[str, Sound]:
    """Sound of every role, system and anchor of these triples by the name of its file."""
    device = resolve_device(None)
    built = built_systems(systems, config, layout=layout, device=device, say=say)
    low_pass = butter(8, 3500, fs=SAMPLE_RATE, output="sos")
    sounds: dict[str, Sound] = {}
    for number, batch in enumerate(clips.batches(config.batch_size)):
        roles = {"content": batch.content, "style": batch.style, "target": batch.target}
        made = dict(roles)
        inputs = [torch.from_numpy(sound).to(device) for sound in roles.values()]
        for name, system in built.items():
            output = system.transfer(*inputs, seed=batch_seed(config.seed, clips.split, number))
            made[name] = output.float().cpu().numpy()
            done = number * config.batch_size + len(batch.triple_ids)
            say(f"{SYSTEMS[name].label}: {done} of {len(clips)} triples")
        made[ANCHOR] = sosfiltfilt(low_pass, batch.target, axis=1).astype(np.float32)
        for name, sound in made.items():
            sounds |= {_file(triple, name): sound[index] for index, triple in enumerate(batch.triple_ids)}
    return sounds
