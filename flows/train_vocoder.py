"""Train the vocoder, which inverts log-mels where it beats Griffin-Lim."""

from prefect import flow

from flows.orchestration import entry, load, run_tracked
from timbreflow.stages import train_vocoder as stage


@flow(name="train_vocoder", flow_run_name="train_vocoder")
def train_vocoder() -> None:
    """One task, with its curves in MLflow."""
    params = load()
    section = params.train_vocoder
    run_tracked(stage, "train_vocoder", section, section, params.audio)


if __name__ == "__main__":
    entry(train_vocoder)
