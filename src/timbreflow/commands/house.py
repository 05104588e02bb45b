"""`timbreflow preset`, `ui`, `stop` and `status`: settings and pages of this checkout."""

from cyclopts import App

from timbreflow.commands.common import project_root

app = App()


@app.command
def preset(name: str | None = None) -> None:
    """Rewrite params.yaml from a preset; without a name, list the presets.

    Args:
        name: such as default, gpu or paper.
    """
    from timbreflow.config import preset_names, write_preset

    if name is None:
        print("\n".join(preset_names()))
        return
    path = project_root() / "params.yaml"
    write_preset(name, path)
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
    from timbreflow.stages.layout import Layout

    root = project_root()
    report = Layout(root).results("evaluate") / "report.html"
    print(f"report   {report.as_uri() if report.is_file() else 'not made yet: make run'}")
    for server in SERVERS:
        print(f"{server.name:8} {running_url(server, root) or 'not running: make ui'}")
