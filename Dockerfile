# vlm-harness with everything but training on several machines.
#
#   docker build -t vlm-harness .                                       with the CUDA build of torch, which PyPI has
#   docker build -t vlm-harness:cpu --build-arg VARIANT=cpu --build-arg CPU_WHEELS=ADDRESS .
#                                                                       ADDRESS: the page of PyTorch's CPU wheels (see its install selector)
#   docker run --rm --gpus all -v "$PWD/runs:/app/runs" -v "$HOME/.cache/huggingface:/cache" vlm-harness eval --model scenes-base --tasks scenes
ARG VARIANT=cuda

FROM python:3.11-slim AS base
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

FROM base AS cuda
RUN pip install --no-cache-dir torch==2.13.0

FROM base AS cpu
ARG CPU_WHEELS=""
RUN test -n "$CPU_WHEELS" || { echo "VARIANT=cpu needs CPU_WHEELS, the page of PyTorch's CPU wheels" >&2; exit 1; }
RUN pip install --no-cache-dir --find-links "$CPU_WHEELS" torch==2.13.0+cpu

FROM ${VARIANT}
WORKDIR /source
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY support support
COPY tasks tasks
COPY leaderboards leaderboards
COPY trainers trainers
COPY harness harness
RUN pip install --no-cache-dir -c constraints.txt '.[train]'
# Not root: what a run writes belongs to the user of that number outside, too (docker run --user "$(id -u):$(id -g)" for another).
RUN useradd --create-home --uid 1000 user && mkdir -p /app /cache && chown user /app /cache
USER user
WORKDIR /app
ENV HF_HOME=/cache
ENTRYPOINT ["harness"]
CMD ["--help"]
