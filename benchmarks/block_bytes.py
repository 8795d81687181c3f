"""Bytes that a transformer block moves outside its products on a GPU, counted without one.

    python benchmarks/block_bytes.py --csv benchmarks/results/block_bytes.csv

A block of ViT-B and one of KAT-B, forward and backward under bfloat16 autocast. Eager, each
operation reads its inputs and writes its outputs. Compiled, Inductor writes its Triton kernels,
whose arguments are counted, those that a kernel reads and writes (in_out_ptr) twice. Products,
attention, and tensors without tokens (weights) are left out; nothing is computed by the kernels, so
that the values are wrong and only their sizes count. The table has bytes per token and channel.
"""

from __future__ import annotations

import argparse
import re
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest import mock

import timm
import torch
from timing import header, print_table, write_csv
from torch import Tensor, nn
from torch._inductor import async_compile, config
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kat.ops import torch_internals
from kat.ops.cpu import backend
from tests.ptx.launch import install

TOKENS, BATCH, WIDTH = 197, 4, 768
PRODUCTS = ("mm", "attention", "convolution")
NOTHING = ("empty", "new_empty", "detach", "unsafe_view")
BLOCKS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("ViT-B", "vit_base_patch16_224", {}),
    ("KAT-B", "kat_base_patch16_224", {"keep": "all"}),
)
"""Title, model and options: on a GPU a KAT keeps all by default."""
COLUMNS = ("block", "mode", "forward", "with backward", "beside ViT-B")


class Count(TorchDispatchMode):
    """Adds up the bytes that operations move, but for products and views."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__.strip("_")
        product = any(part in name for part in PRODUCTS)
        if not (product or function.is_view or name.startswith(NOTHING)):
            self.add(args, found)
        return found

    def add(self, *values: Any) -> None:
        """Add the sizes of all tensors of tokens, once each."""
        tensors = {id(t): t for t in tree_leaves(values) if isinstance(t, Tensor)}
        sizes = (t.numel() * t.element_size() for t in tensors.values() if t.numel() % TOKENS == 0)
        self.bytes += sum(sizes)

    def forward(
        self, x: Tensor, numerator: Tensor, denominator: Tensor, v: None, *, form: str, y: Tensor
    ) -> None:
        """Count in place of a kernel."""
        self.add(x, y)

    def backward(
        self,
        grad: Tensor,
        x: Tensor,
        numerator: Tensor,
        denominator: Tensor,
        v: None,
        *,
        dx: Tensor,
        **_: Any,
    ) -> tuple[Tensor, Tensor]:
        """Count in place of a kernel."""
        self.add(grad, x, dx)
        return torch.zeros_like(numerator), torch.zeros_like(denominator)

    def triton(self, name: str, source: str, **_: Any) -> Any:
        """Make a kernel of Inductor's code, which counts."""
        names = re.search(rf"def {name}\((.*?)\)", source)[1].split(", ")
        both = [i for i, argument in enumerate(names) if argument.startswith("in_out_ptr")]

        def count(*arguments: Any, **_: Any) -> None:
            self.add(arguments)
            self.add([arguments[i] for i in both])

        kernel = mock.Mock()
        kernel.run = count
        return kernel


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", type=Path, help="write the table there too")
    path = parser.parse_args().csv
    print(header("cpu"))
    install()  # Triton compiles for a GPU of compute capability 9.0
    rows: list[tuple[str | float, ...]] = []
    for compiled in (False, True):
        of_vit = 0.0
        for title, name, options in BLOCKS:
            forward, both = (_bytes(name, options, compiled, way) for way in (False, True))
            of_vit = of_vit or both
            mode = "compiled" if compiled else "eager"
            rows.append((title, mode, forward, both, both / of_vit))
    print_table(COLUMNS, rows)
    if path:
        write_csv(path, "cpu", COLUMNS, rows)


def _bytes(name: str, options: dict[str, str], compiled: bool, with_backward: bool) -> float:
    """The bytes of a block, by token and channel."""
    torch.manual_seed(0)
    model = timm.create_model(name, depth=1, **options)
    block: nn.Module = model.blocks[0]
    x = torch.randn(BATCH, TOKENS, WIDTH, requires_grad=True)
    count = Count()
    torch.compiler.reset()
    run = torch.compile(block) if compiled else block
    with ExitStack() as stack:
        patch = stack.enter_context
        for function in ("forward", "backward"):
            patch(mock.patch.object(backend, function, getattr(count, function)))
        patch(mock.patch.object(backend, "CONVERTS", True))
        patch(mock.patch.object(torch_internals, "_dispatch_modes", return_value=0))
        patch(config.patch(cpu_backend="triton", fx_graph_cache=False, compile_threads=1))
        patch(
            mock.patch.object(
                async_compile.AsyncCompile, "triton", lambda _, *a, **k: count.triton(*a, **k)
            )
        )
        patch(torch.autocast("cpu", torch.bfloat16))
        if not compiled:
            patch(count)
        y = run(x)
        if with_backward:
            y.backward(y.detach())
    return count.bytes / x.numel()


if __name__ == "__main__":
    main()
