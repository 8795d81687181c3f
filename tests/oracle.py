"""An independent float64 statement of the function, term by term, for tests to compare with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def rational_numpy(x: np.ndarray, a: np.ndarray, b: np.ndarray, form: str) -> np.ndarray:
    """F(x) for x (..., C), a (1 or G, m + 1), b (1 or G, n), channel by channel."""
    groups = max(len(a), len(b))
    y = np.empty(x.shape)
    for channel in range(x.shape[-1]):
        group = channel * groups // x.shape[-1]
        ai, bi = a[group % len(a)], b[group % len(b)]
        z = x[..., channel].astype(np.float64)
        numerator = sum(ai[i] * z**i for i in range(len(ai)))
        if form == "A":
            denominator = 1 + sum(abs(bi[j]) * np.abs(z) ** (j + 1) for j in range(len(bi)))
        else:
            denominator = 1 + np.abs(sum(bi[j] * z ** (j + 1) for j in range(len(bi))))
        y[..., channel] = numerator / denominator
    return y


def gradients_numpy(
    grad: np.ndarray, x: np.ndarray, a: np.ndarray, b: np.ndarray, form: str, step: float = 1e-6
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """dx, da, db of sum(grad * F(x)) by central differences; away from the kinks only."""

    def loss(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
        return float((grad * rational_numpy(x, a, b, form)).sum())

    results = []
    for position, tensor in enumerate((x, a, b)):
        slope = np.empty(tensor.shape)
        for index in np.ndindex(tensor.shape):
            moved = [t.astype(np.float64).copy() for t in (x, a, b)]
            moved[position][index] += step
            above = loss(*moved)
            moved[position][index] -= 2 * step
            slope[index] = (above - loss(*moved)) / (2 * step)
        results.append(slope)
    return results[0], results[1], results[2]


def random_case(
    shape: tuple[int, ...],
    rows: tuple[int, int],
    degree: tuple[int, int],
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """x of the shape, and coefficients with these row counts; a third of b is negative."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    return normal(*shape), normal(rows[0], degree[0] + 1), normal(rows[1], degree[1]) + 0.2
