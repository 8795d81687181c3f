"""Threads and backends of the tests."""

from __future__ import annotations

import os

import torch

from tests import kernels

# The tests are small: threads that wait for each other cost more than they bring.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

# Where the CPU kernel cannot be had, its own tests say so; the others run on the reference, and
# need not hear of it.
if kernels.problem():
    os.environ["KAT_CPU_KERNEL"] = "off"
