"""Seeds that are functions of what they are for: nothing depends on what was drawn before."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch

ORDER, ITEM, ERASING, STEP, SCENE = range(5)
"""What a seed is for: the order of an epoch, what is done to an item, the erasing of a rectangle of
it, all that a step of training draws, a composed image."""


def derived_seed(*numbers: int) -> int:
    """A seed in [0, 2^63): 63 bits of the BLAKE2 hash of the numbers.

    Args:
        numbers: first what it is for (:data:`ORDER`, ...), then what it depends on; each in
            [0, 2^64).
    """
    digest = blake2b(struct.pack(f"<{len(numbers)}Q", *numbers), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_host(seed: int) -> None:
    """Seeds Python's, NumPy's and PyTorch's generators of this process, but no device's."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int) -> None:
    """Seeds all generators of this process, the devices' too."""
    seed_host(seed)
    torch.manual_seed(seed)


@contextmanager
def host_generators_kept() -> Iterator[None]:
    """Leaves Python's, NumPy's and PyTorch's generators as they were before."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
