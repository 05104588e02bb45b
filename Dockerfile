# `timbreflow serve` as an image: the core and the extra "serve" with a CPU build of torch, and the released models. The target
# `pipeline` (`make image TARGET=pipeline`) is for a Prefect worker of type docker (flows/prefect-docker.yaml).
FROM python:3.12.12-slim-bookworm AS build
# The lock names no build of torch; those of this index have no CUDA, which would be 4 GB more.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=$TORCH_INDEX \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/timbreflow
WORKDIR /src
# The layer that is large and seldom changes.
COPY requirements.lock ./
RUN /opt/timbreflow/bin/pip install --no-cache-dir -c requirements.lock torch torchaudio
COPY pyproject.toml README.md LICENSE ./
COPY released/ released/
COPY src/ src/
RUN /opt/timbreflow/bin/pip install --no-cache-dir -c requirements.lock '.[serve]'

FROM python:3.12.12-slim-bookworm AS pipeline
# TORCH_INDEX=https://download.pytorch.org/whl/cu128 for a GPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
ENV PIP_EXTRA_INDEX_URL=$TORCH_INDEX \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends git libfluidsynth3 && rm -rf /var/lib/apt/lists/*
# A stage looks for .venv in its checkout, then above it.
WORKDIR /srv/timbreflow
RUN python -m venv .venv
COPY requirements.lock ./
RUN .venv/bin/pip install --no-cache-dir -c requirements.lock torch torchaudio
COPY pyproject.toml README.md LICENSE ./
COPY released/ released/
COPY src/ src/
RUN .venv/bin/pip install --no-cache-dir -c requirements.lock '.[pipeline]'
# The checkout that is mounted there comes before the package that is installed here.
ENV PATH=/srv/timbreflow/.venv/bin:$PATH \
    PYTHONPATH=/srv/timbreflow/checkout:/srv/timbreflow/checkout/src \
    HOME=/tmp \
    PYTHONUNBUFFERED=1
USER 10001:10001

FROM python:3.12.12-slim-bookworm
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin timbreflow
COPY --from=build /opt/timbreflow /opt/timbreflow
# Nothing is written but below /tmp, so the root may be read-only.
ENV PATH=/opt/timbreflow/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 8080
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/healthz', timeout=4)"]
# Options of `docker run IMAGE` are added; inside, every interface is the container's own.
ENTRYPOINT ["timbreflow", "serve", "--host", "0.0.0.0"]
