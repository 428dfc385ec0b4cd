# Written where no daemon was at hand, and not built yet.
#
#   docker build --target cpu --tag microdit .
#   docker run --rm --volume "$PWD/runs:/work/runs" microdit train quickstart --run runs/quickstart
#
#   docker build --target cuda --tag microdit:cuda .
#   docker run --rm --volume "$PWD/huggingface:/work/huggingface" --env HF_HOME=/work/huggingface \
#       microdit:cuda fetch sdxl-vae dfn-clip-h14
#   docker run --rm --gpus all --volume "$PWD/huggingface:/work/huggingface" --env HF_HOME=/work/huggingface \
#       --volume "$PWD/runs:/work/runs" --volume "$PWD/latents:/work/latents" \
#       microdit:cuda train microdit-xl2 --set data.shards=latents/cc12m --set evaluation.shards=latents/coco2014 \
#       --devices 0-7 --run runs/xl2

FROM rust:1.92-slim-bookworm AS source
WORKDIR /source
COPY . .

FROM source AS build-cpu
RUN cargo build --release --locked --package microdit-cli

# Kernels are compiled when they are first used: the build needs no CUDA, running it needs NVRTC, CUDA's headers and NCCL. Where there is
# no `nvcc`, the newest CUDA is assumed: this is the one it will run with.
FROM source AS build-cuda
ENV CUDARC_CUDA_VERSION=12080
RUN cargo build --release --locked --package microdit-cli --features cuda

FROM debian:bookworm-slim AS cpu
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-cpu /source/target/release/microdit /usr/local/bin/
WORKDIR /work
ENTRYPOINT ["microdit"]

# The base image has NVRTC and NCCL, and, being a `devel` one, the headers that kernels include.
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build-cuda /source/target/release/microdit /usr/local/bin/
WORKDIR /work
ENTRYPOINT ["microdit"]
