"""`timbreflow preset`, `ui`, `stop`, `status` and `cache`: settings, pages and stored data of this checkout."""

from cyclopts import App

from timbreflow.commands.common import print_table, project_root

app = App()

PRESETS = (
    ("preset", "for", "time", "memory", "disk"),
    ("default", "a laptop without a GPU", "20 to 30 min", "~3 GB", "~1.5 GB"),
    ("fine-tune", "the released models on your own MIDI", "~1.5 h", "~4 GB", "~2 GB"),
    ("cpu-long", "two CPU cores and a night", "~9 h", "~6 GB", "~12 GB"),
    ("gpu", "one GPU with 6 GB or more", "~8 h", "~12 GB", "~12 GB"),
    ("gpu-short", "a quarter of an hour on a large GPU", "15 min", "~32 GB", "~12 GB"),
    ("paper", "comparison with the 2021 paper", "~20 h on a GPU", "~12 GB", "~60 GB"),
)
"""What each preset takes; ~ marks an estimate from the cost of a step and of a clip (docs/training.md)."""


@app.command
def preset(name: str | None = None, *, force: bool = False) -> None:
    """Rewrite params.yaml from a preset; without a name, list the presets and what they take.

    A file with settings of your own, such as your sources, is only replaced with --force.

    Args:
        name: such as default, gpu or paper.
        force: give up your own settings.
    """
    from timbreflow.config import write_preset

    if name is None:
        print_table(PRESETS[0], PRESETS[1:])
        print("~ is an estimate; see docs/training.md.")
        return
    path = project_root() / "params.yaml"
    write_preset(name, path, force=force)
    print(f"Wrote preset {name} to {path}; `git diff params.yaml` shows what changed.")


@app.command
def ui() -> None:
    """Start this checkout's Prefect and MLflow servers on 127.0.0.1."""
    from timbreflow.app.servers import start

    for name, url in start(project_root()).items():
        print(f"{name:8} {url}")


@app.command
def stop() -> None:
    """Stop this checkout's servers."""
    from timbreflow.app.servers import stop as stop_servers

    print("stopped: " + (", ".join(stop_servers(project_root())) or "nothing was running"))


@app.command
def status() -> None:
    """Show where the report is, and the addresses of the Prefect and MLflow pages."""
    from timbreflow.app.servers import SERVERS, running_url
    from timbreflow.network import without_password
    from timbreflow.stages.layout import Layout

    root = project_root()
    report = Layout(root).results("report") / "report.html"
    print(f"report   {report.as_uri() if report.is_file() else 'not made yet: make run'}")
    for server in SERVERS:
        print(f"{server.name:8} {without_password(running_url(server, root) or 'not running: make ui')}")


@app.command
def cache() -> None:
    """Compare every file in DVC's cache with its md5, and remove those that were damaged.

    DVC does not notice the damage and would use such files. `dvc repro` makes what was removed again, `dvc repro
    --pull` fetches it.
    """
    from timbreflow.tracking.cache import remove_damaged

    print(remove_damaged(project_root()) or "DVC's cache is whole.")
