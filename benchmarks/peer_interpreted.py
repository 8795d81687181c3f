"""Gradients of a provider's kernels under Triton's interpreter, on the CPU.

Triton reads TRITON_INTERPRET when it is imported, so these functions run in a process of their own,
which :func:`interpreter` starts.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import timing  # noqa: F401  (finds a checkout of kat that is not installed)
import torch
from peer_code import (
    Finding,
    attempted,
    coefficients_of,
    differentiated,
    gradient_function,
    provider_of,
)
from torch import Tensor

import kat

QUANTITIES = ("dx", "da", "db")


@contextmanager
def interpreter() -> Iterator[Callable[..., list[Finding]]]:
    """:func:`attempted`, in a process in which Triton interprets kernels."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context) as executor:
        os.environ["TRITON_INTERPRET"] = "1"
        try:
            executor.submit(int).result()  # the process starts with the first call
        finally:
            del os.environ["TRITON_INTERPRET"]
        yield lambda *call: executor.submit(attempted, *call).result()


def gradient_errors(name: str, folder: Path | None, shape: list[int]) -> list[Finding]:
    """The errors of dx, da and db against float64: |g - exact| / |exact|, in 2-norms."""
    inputs = random_inputs(name, shape)
    exact = differentiated(partial(kat.rational, impl="reference"), *(t.double() for t in inputs))
    basis = "interpreted" if provider_of(name).triton else "eager"
    return [
        (f"relative error of {quantity}", "1", float((g - e).norm() / e.norm()), basis)
        for quantity, g, e in zip(
            QUANTITIES, gradient_function(name, folder)(*inputs), exact, strict=True
        )
    ]


def distinct_results(
    name: str, folder: Path | None, shape: list[int], orders: int
) -> list[Finding]:
    """How many different bit patterns of (da, db) random orders of the programs give.

    Raises:
        OrderUnavailable: this Triton does not let the order be chosen.
    """
    inputs = random_inputs(name, shape)
    with random_order():
        results = [gradient_function(name, folder)(*inputs)[1:] for _ in range(orders)]
    patterns = {tuple(t.numpy().tobytes() for t in result) for result in results}
    return [("distinct results", "1", len(patterns), "interpreted")]


def random_inputs(name: str, shape: list[int]) -> tuple[Tensor, ...]:
    """grad and x, standard normal, a and b: float32, and the same in every call."""
    generator = torch.Generator().manual_seed(shape[0])
    grad, x = (torch.randn(shape, generator=generator) for _ in range(2))
    return grad, x, *coefficients_of(name)


class OrderUnavailable(RuntimeError):
    """This Triton does not let the order of the programs be chosen."""


@contextmanager
def random_order() -> Iterator[None]:
    """The interpreter runs the programs of each launch in a random order, another each time.

    Triton has no documented way. Its interpreter tells a builder which program comes next, by a
    method whose name is public; here the builder is told another one.
    """
    try:
        from triton.runtime.interpreter import interpreter_builder as builder

        original = builder.set_grid_idx
    except (ImportError, AttributeError) as error:
        raise OrderUnavailable(
            "this Triton's interpreter has no set_grid_idx, by which programs are put in an order"
        ) from error
    generator = torch.Generator().manual_seed(0)
    order: list[tuple[int, ...]] = []

    def set_permuted(x: int, y: int, z: int) -> None:
        if x == y == z == 0:  # a launch begins
            programs = list(itertools.product(*map(range, builder.grid_dim)))
            shuffled = torch.randperm(len(programs), generator=generator).tolist()
            order[:] = [programs[i] for i in reversed(shuffled)]
        original(*order.pop())

    builder.set_grid_idx = set_permuted
    try:
        yield
    finally:
        builder.set_grid_idx = original
