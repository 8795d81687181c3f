"""One thread for all tests: they are small, and threads that wait for each other cost more."""

from __future__ import annotations

import os

import torch

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
