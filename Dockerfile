# An image with kat, PyTorch and its CUDA libraries; the machine needs NVIDIA's container toolkit.
#
#   docker build --build-arg UID="$(id -u)" -t kat .
#   docker run --gpus all --ipc host -v "$PWD":/work kat train --config digits
#
# Open: the base image has no digest yet. `docker buildx imagetools inspect python:3.12-slim` prints it.
FROM python:3.12-slim

# Triton compiles its launchers with gcc, the CPU kernel with g++.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[all]" triton && rm -rf /src
# kat runs as the user who built the image, who owns what it writes into /work.
ARG UID=1000
RUN useradd --create-home --uid "$UID" kat && install -d -o kat /work
USER kat
WORKDIR /work
ENTRYPOINT ["kat"]
