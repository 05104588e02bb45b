"""`timbreflow collect` and `timbreflow corpus`: music, SoundFonts and recordings."""

from pathlib import Path

from cyclopts import App

from timbreflow.commands.common import print_table, project_root, say
from timbreflow.errors import TimbreflowError

app = App()
corpus = App(name="corpus", help="Music, SoundFonts and recordings that package managers can get.")
app.command(corpus)


@app.command(help_epilogue="For example\n\n    timbreflow collect music21 ~/midi lmd_full.tar.gz --out notes")
def collect(*sources: str, out: Path) -> None:
    """Read MIDI files, folders, archives or named corpora into note tables, or recordings into clips.

    Args:
        sources: .mid, .midi, .kar, .zip, .tar, .tar.gz, a folder, or a name of `timbreflow corpus list`; or, for
            training without notes, .wav, .flac, .ogg, .mp3 and folders of them.
        out: folder for pieces*.parquet, tracks*.parquet, notes*.parquet and rejects*.parquet; of recordings, for
            clips, manifest.parquet and rejects.parquet.
    """
    from timbreflow.config import load_params
    from timbreflow.stages import collect_audio
    from timbreflow.stages.collect_midi import collect as collect_sources
    from timbreflow.stages.layout import Layout

    if not sources:
        raise TimbreflowError("Name at least one source, such as a folder of MIDI files or music21.")
    root = project_root()
    params = load_params(root / "params.yaml")
    recorded = [collect_audio.holds_recordings(source) for source in sources]
    if any(recorded) and not all(recorded):
        raise TimbreflowError(f"{sources[recorded.index(True)]} holds recordings, others notes; collect them apart.")
    if any(recorded):
        render = params.render_triples
        cut = collect_audio.Cut(render.sample_rate, render.clip_seconds, params.validate_data.silent_rms_dbfs)
        report = collect_audio.collect(sources, out, cut, render.splits)
        for note in report.tables["notes"]:
            say(note["detail"])
    else:
        report = collect_sources(sources, out, params.collect_midi, corpora=Layout(root).corpora)
    print(report.summary)


@corpus.command(name="list")
def list_sources() -> None:
    """Show every source of music, SoundFonts and recordings: size, licence, and whether it is here."""
    from timbreflow.notes.corpora import list_corpora
    from timbreflow.stages.layout import Layout

    rows = [
        (
            status.name,
            status.kind,
            f"{status.size / 1e6:.1f} MB" if status.size else "-",
            status.licence,
            "yes" if status.present else "no",
        )
        for status in list_corpora(Layout(project_root()).corpora)
    ]
    print_table(("name", "kind", "size", "licence", "present"), rows)


@corpus.command
def fetch(*names: str) -> None:
    """Get sources with the package manager that has them; Lakh MIDI only gets its download line.

    Args:
        names: names of `timbreflow corpus list`.
    """
    from timbreflow.notes.corpora import fetch as fetch_corpus
    from timbreflow.rendering.soundfonts import install_soundfont
    from timbreflow.stages.layout import Layout

    if not names:
        raise TimbreflowError("Name at least one source of `timbreflow corpus list`.")
    layout = Layout(project_root())
    for name in names:
        fetched = fetch_corpus(name, layout.corpora)
        print(fetched.message)
        if fetched.path is not None and fetched.path.suffix in (".sf2", ".sf3"):
            font = install_soundfont(fetched.path, layout.soundfonts)
            print(f"For render_triples.soundfonts: {{name: {font.name}, sha256: {font.sha256}, role: train}}")
