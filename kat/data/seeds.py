"""Seeds that depend only on their purpose, never on what was drawn before."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import torch

ORDER = 0
"""The purpose of a seed: the order of an epoch."""
ITEM = 1
"""The augmentation of an image."""
ERASING = 2
"""The random erasing of an image."""
STEP = 3
"""The draws of a training step."""


def derived_seed(*numbers: int) -> int:
    """Return a seed in [0, 2^63): 63 bits of the BLAKE2 hash of the numbers.

    Args:
        numbers: the purpose (:data:`ORDER`, ...), then all that the seed depends on; each in
            [0, 2^64).

    Examples:
        >>> from kat.data import STEP, derived_seed
        >>> derived_seed(STEP, 0, 1) == derived_seed(STEP, 0, 1)
        True
        >>> derived_seed(STEP, 0, 1) == derived_seed(STEP, 0, 2)
        False
    """
    content = b"".join(number.to_bytes(8, "little") for number in numbers)
    digest = blake2b(content, digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def seed_host(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on the CPU."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and PyTorch on all devices.

    Examples:
        >>> import torch
        >>> from kat.data import seed_all
        >>> seed_all(0)
        >>> x = torch.rand(1)
        >>> seed_all(0)
        >>> torch.equal(x, torch.rand(1))
        True
    """
    seed_host(seed)
    torch.manual_seed(seed)


@contextmanager
def fork_host_rng() -> Iterator[None]:
    """Restore the generators of Python, NumPy and PyTorch on the CPU at the end of the block."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
