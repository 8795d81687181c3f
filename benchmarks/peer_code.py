"""Where published kernel modules keep their code, and how each is called.

Nothing of theirs is here: a provider imports single files out of a folder that the user names, a
checkout of the repository.
"""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from kat.ops.arguments import Rational

OURS = "kat"
GROUPS = 8
MULTIPROCESSORS = 132
"""Of an H100."""


@dataclass(frozen=True)
class TritonCode:
    """Kernels in Triton, called as they are, without autograd.

    Attributes:
        file: below the repository's folder; or a module's name.
        forward: y of the module, x (B, N, C), a (G, 6) and b (G, 4).
        backward: dx, da and db of the module, grad, x, a and b.
        kernels: the names of the kernels that visit every element.
        launched_from: the module that holds the kernels, if it is another one.
    """

    file: str
    forward: Callable[..., Tensor]
    backward: Callable[..., tuple[Tensor, ...]]
    kernels: dict[str, str]
    launched_from: str = ""


@dataclass(frozen=True)
class TorchCode:
    """A differentiable function in plain PyTorch, which runs on the CPU, too.

    Attributes:
        file: below the repository's folder; or a module's name.
        function: y of the module, x (B, N, C), a (G, 6) and b (G, 4).
    """

    file: str
    function: Callable[..., Tensor]


@dataclass(frozen=True)
class Provider:
    """Kernels to compare.

    Attributes:
        repository: where to get it.
        triton: its kernels in Triton, if it has any.
        torch: its code that runs on the CPU, if it has any.
        grouped: whether groups of channels have their own coefficients.
    """

    repository: str
    triton: TritonCode | None = None
    torch: TorchCode | None = None
    grouped: bool = True


KERNELS = {"forward": "rational_fwd_kernel", "backward": "rational_bwd_kernel"}
PEERS = {
    "rational_kat_cu": Provider(
        "https://github.com/Adamdad/rational_kat_cu",
        TritonCode(
            "kat_rational/rational_triton.py",
            lambda code, x, a, b: code.rational_fwd_triton(x, a, b, len(a)),
            lambda code, grad, x, a, b: code.rational_bwd_triton(grad, x, a, b, len(a)),
            KERNELS,
        ),
        TorchCode(
            "kat_rational/kat_1dgroup_torch.py",
            lambda code, x, a, b: code.Rational_CUDA_A_1DGroup(x, a, b, len(a)),
        ),
    ),
    "flashkat": Provider(
        "https://github.com/OSU-STARLAB/FlashKAT",
        TritonCode(
            "rational_kat/kernels/flash_rational_triton.py",
            lambda code, x, a, b: code.rational_fwd_triton(x, a, b),
            lambda code, grad, x, a, b: code.rational_bwd_triton(grad, x, a, b),
            KERNELS,
        ),
    ),
    "rational_activations": Provider(
        "https://github.com/ml-research/rational_activations",
        torch=TorchCode(
            "rational/torch/rational_pytorch_functions.py",
            lambda code, x, a, b: code.Rational_PYTORCH_A_F(x, a[0], b[0], True),
        ),
        grouped=False,
    ),
}


def _kat_backward(launch: Any, grad: Tensor, x: Tensor, a: Tensor, b: Tensor) -> Any:
    """As on an H100: kat's launcher divides sums by the multiprocessors; a CPU counts as one."""
    dx = torch.empty_like(x)
    with mock.patch.object(launch, "multiprocessors", return_value=MULTIPROCESSORS):
        return dx, *launch.backward(Rational(a, b), grad, x, dx=dx)


def _kat_forward(launch: Any, x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    y = torch.empty_like(x)
    launch.forward(Rational(a, b), x, y=y)
    return y


KAT = Provider(
    "this one",
    TritonCode(
        "kat.ops.triton.launch",
        _kat_forward,
        _kat_backward,
        {"forward": "forward_kernel", "backward": "backward_kernel"},
        launched_from="kat.ops.triton.kernels",
    ),
    TorchCode("kat", lambda code, x, a, b: code.rational(x, a, b)),
)


class PeerError(ValueError):
    """A peer that cannot be taken; the message is for the user."""


def parse_peer(text: str) -> tuple[str, Path]:
    """Name and folder of NAME=PATH.

    Raises:
        PeerError: the name is unknown or the folder lacks the peer's files.
    """
    name, equals, path = text.partition("=")
    if not equals or not path:
        raise PeerError(f"{text!r} is not NAME=PATH; NAME is one of: {', '.join(PEERS)}")
    if name not in PEERS:
        raise PeerError(f"no peer is called {name!r}; there are: {', '.join(PEERS)}")
    provider = PEERS[name]
    for code in (provider.triton, provider.torch):
        if code and not Path(path, code.file).is_file():
            raise PeerError(
                f"{name}: no {code.file} in {path}; give a checkout of {provider.repository}"
            )
    return name, Path(path)


def provider_of(name: str) -> Provider:
    return KAT if name == OURS else PEERS[name]


@cache
def load(file: str, folder: Path | None) -> ModuleType:
    """The module of a provider's file; without a folder, ``file`` is a module's name."""
    if folder is None:
        return importlib.import_module(file)
    path = (folder / file).resolve()
    name = f"peer_{path.parent.name}_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where Triton looks for the globals of a kernel
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what their code uses that is deprecated by now
        spec.loader.exec_module(module)
    return module


Finding = tuple[str, str, float | str, str]
"""A metric, its unit, its value, and what the number is based on."""


def attempted(function: Callable[..., list[Finding]], *args: Any) -> list[Finding]:
    """The findings of a call into a provider's code, or the first line of its error."""
    try:
        return function(*args)
    except Exception as error:  # whatever their code does on this Triton or torch
        while error.__cause__:
            error = error.__cause__
        message = getattr(error, "error_message", None) or error  # Triton's begins with their code
        lines = str(message).strip().splitlines() or [""]
        return [("error", "-", f"{type(error).__name__}: {lines[0]}", "failed")]


def coefficients_of(name: str) -> tuple[Tensor, Tensor]:
    """Random a (G, 6) and b (G, 4) for a provider, the same in every call."""
    groups = GROUPS if provider_of(name).grouped else 1
    generator = torch.Generator().manual_seed(0)
    a, b = (0.3 * torch.randn(groups, count, generator=generator) for count in (6, 4))
    return a, b


@cache
def cpu_function(name: str, folder: Path | None) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The differentiable function of x, a and b that runs on the CPU."""
    code = provider_of(name).torch
    return partial(code.function, load(code.file, folder))


@cache
def gradient_function(name: str, folder: Path | None) -> Callable[..., tuple[Tensor, ...]]:
    """A function of grad, x, a and b that gives dx, da and db: the kernels', or autograd's."""
    code = provider_of(name).triton
    if code:
        return partial(code.backward, load(code.file, folder))
    return partial(differentiated, cpu_function(name, folder))


def differentiated(
    function: Callable[..., Tensor], grad: Tensor, *inputs: Tensor
) -> tuple[Tensor, ...]:
    """The gradients of a function by its inputs, by autograd."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    return torch.autograd.grad(function(*leaves), leaves, grad)
