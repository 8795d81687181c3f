# An image with kat, PyTorch and its CUDA libraries; the machine needs NVIDIA's container toolkit.
#
#   docker build -t kat .
#   docker run --gpus all --ipc host -v "$PWD":/work kat train --config digits
FROM python:3.12-slim

# Triton compiles its launchers with gcc, the CPU kernel with g++.
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc g++ \
    && rm -rf /var/lib/apt/lists/*
COPY . /src
RUN pip install --no-cache-dir "/src[all]" triton && rm -rf /src
WORKDIR /work
ENTRYPOINT ["kat"]
