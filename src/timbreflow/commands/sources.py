"""`timbreflow collect` and `timbreflow corpus`: music, SoundFonts and recordings."""

from pathlib import Path

from cyclopts import App

from timbreflow.commands.common import print_table, project, project_root, say
from timbreflow.errors import TimbreflowError

app = App()
corpus = App(name="corpus", help="Music, SoundFonts and recordings that package managers can get.")
app.command(corpus)


@app.command(help_epilogue="For example\n\n    timbreflow collect music21 ~/midi lmd_full.tar.gz --out notes")
def collect(*sources: str, out: Path) -> None:
    """Read MIDI files, folders, archives or named corpora into note tables, or recordings into clips.

    Args:
        sources: .mid, .midi, .kar, .rmi, .mid.gz, .zip, .tar, .tar.gz, a folder, or a name of `timbreflow corpus list`;
            or, for training without notes, .wav, .flac, .ogg, .mp3 and folders of them.
        out: folder for pieces*.parquet, tracks*.parquet, notes*.parquet and rejects*.parquet; of recordings, for
            clips, manifest.parquet and rejects.parquet.
    """
    from timbreflow.stages import collect_audio
    from timbreflow.stages.collect_midi import collect as collect_sources

    if not sources:
        raise TimbreflowError("Name at least one source, such as a folder of MIDI files or music21.")
    params, layout = project()
    recorded = [collect_audio.holds_recordings(source) for source in sources]
    if any(recorded) and not all(recorded):
        raise TimbreflowError(
            f"{sources[recorded.index(True)]} holds recordings, other sources hold notes; collect them separately."
        )
    if any(recorded):
        render = params.render_triples
        cut = collect_audio.Cut(render.sample_rate, render.clip_seconds, params.validate_data.silent_rms_dbfs)
        report = collect_audio.collect(sources, out, cut, render.splits)
        for note in report.tables["notes"]:
            say(note["detail"])
    else:
        report = collect_sources(sources, out, params.collect_midi, corpora=layout.corpora)
    for row in report.tables["rejects"]:
        say(f"{row['reason']}: {row['files']} files, such as {row['such as']}")
    print(report.summary)


@corpus.command(name="list")
def list_sources() -> None:
    """Show every source of music, SoundFonts and recordings: size, licence, and whether it is here."""
    from timbreflow.notes.sources.catalogue import CATALOGUE
    from timbreflow.notes.sources.corpora import corpus_path
    from timbreflow.stages.layout import Layout

    root = Layout(project_root()).corpora
    rows = [
        (
            corpus.name,
            corpus.kind,
            f"{corpus.size / 1e6:.1f} MB" if corpus.size else "-",
            corpus.licence,
            "yes" if corpus_path(corpus, root).exists() else "no",
        )
        for corpus in CATALOGUE.values()
    ]
    print_table(("name", "kind", "size", "licence", "present"), rows)


@corpus.command
def fetch(*names: str, preset: str | None = None) -> None:
    """Get sources with the package manager that has them.

    Lakh MIDI is not fetched: the command that downloads it is printed.

    A source that cannot be fetched is reported, and the others are still fetched.

    Args:
        names: names of `timbreflow corpus list`.
        preset: fetch all music and SoundFonts that this preset of params.yaml needs.
    """
    from timbreflow.notes.sources.corpora import fetch as fetch_corpus
    from timbreflow.notes.sources.corpora import find_corpus
    from timbreflow.rendering.soundfonts import install_soundfont
    from timbreflow.stages.layout import Layout

    wanted = list(dict.fromkeys([*names, *([] if preset is None else _needs(preset))]))
    if not wanted:
        raise TimbreflowError("Name at least one source of `timbreflow corpus list`, or a preset.")
    layout = Layout(project_root())
    missing = []
    for name in wanted:
        try:
            fetched = fetch_corpus(name, layout.corpora)
        except TimbreflowError as error:
            if len(wanted) == 1:
                raise
            say(f"{name} is missing: {error}")
            missing.append(name)
            continue
        print(fetched.message)
        if fetched.path is not None and fetched.path.suffix in (".sf2", ".sf3"):
            font = install_soundfont(fetched.path, layout.soundfonts)
            role = find_corpus(name).role
            print(f"For render_triples.soundfonts: {{name: {font.name}, sha256: {font.sha256}, role: {role}}}")
    if missing:
        raise TimbreflowError(f"{len(missing)} of {len(wanted)} sources could not be fetched: {', '.join(missing)}.")


def _needs(preset: str) -> list[str]:
    """Names of the music and SoundFonts that a preset needs."""
    from timbreflow.config import preset_params

    params = preset_params(preset)
    music = (source.partition("/")[0] for source in params.collect_midi.sources)
    return [*music, *(font.name for font in params.render_triples.soundfonts)]
