"""Times models of one size in turns: inference and a training step, and their peak memory.

    python benchmarks/train_step.py
    python benchmarks/train_step.py --size base --batch 128 --device cuda --amp --compile
    python benchmarks/train_step.py --size micro --batch 128 --models vit fused swiglu kan_equal kan

  vit        timm's ViT
  vit_blocks the ViT whose MLPs run in blocks of rows at inference, as the KAT's do (CPU)
  fused      the KAT
  input      the KAT with keep="input": its MLPs keep their inputs alone for the backward pass
  plain      the KAT with keep="all": its MLPs run by their modules
  frozen     the KAT whose functions are not trained
  groups_8   the KAT with so many groups: 1, 2, 4, 8, 16, 32
  channels   the KAT with a rational of its own for each channel
  swiglu     the ViT with SwiGLU at equal parameters
  kan_equal  the ViT with B-spline KAN layers, narrower within, at equal parameters
  kan        the ViT with B-spline KAN layers of its MLPs' width

The models take turns; times are medians in ms, ratios are to the first of them. A training step is
a forward and a backward pass, without the optimizer. Peak memory is that of two such steps, above
what was held before them: on the GPU allocated memory, on the CPU resident memory of a process of
its own. ``--compile blocks`` compiles one block for all blocks of a model, which takes less time.

On the CPU freed memory is kept, so that no allocation waits for the system. ``--allocator default``
is what users have: the C library then gets large tensors from the system anew each time.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from blocked_vit import MlpInBlocks
from memory import reset_peak, resident
from timing import (
    ACCELERATORS,
    header,
    keep_freed_memory,
    medians,
    print_table,
    take_turns,
    write_csv,
)
from torch import Tensor, nn

import kat  # noqa: F401  (registers the models)
from kat.nn import rationals

COLUMNS = (
    "model", "parameters", "inference", "inference ratio", "training step", "training ratio",
    "images/s", "peak MB", "peak ratio",
)  # fmt: skip
CANDIDATES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit", {}),
    "vit_blocks": ("vit", {"mlp_layer": MlpInBlocks}),
    "fused": ("kat", {}),
    "input": ("kat", {"keep": "input"}),
    "plain": ("kat", {"keep": "all"}),
    "frozen": ("kat", {}),
    "channels": ("kat", {"num_groups": "channels", "share": "none"}),
    **{f"groups_{n}": ("kat", {"num_groups": n}) for n in (1, 2, 4, 8, 16, 32)},
    "swiglu": ("vit_swiglu", {}),
    "kan_equal": ("vit_kan", {"mlp_ratio": 0.4375}),
    "kan": ("vit_kan", {}),
}
GRIDS = {"micro": "patch7_28", "tiny": "patch16_224", "small": "patch16_224", "base": "patch16_224"}


def main() -> None:
    """Measures and prints the table; with --peak, one candidate's peak memory."""
    options = parse()
    if options.peak:
        print(peak_resident_bytes(options.peak, options))
        return
    if options.allocator == "keep":
        keep_freed_memory()
    print(header(options.device))
    rows = measure(options)
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, options.device, COLUMNS, rows)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=GRIDS, default="tiny")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=CANDIDATES,
        default=["vit", "fused", "plain"],
        help="which, the one that ratios are to first",
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--amp",
        nargs="?",
        const="bfloat16",
        help="autocast, to bfloat16 if no dtype is named",
    )
    parser.add_argument(
        "--compile",
        nargs="?",
        const="model",
        choices=("model", "blocks"),
        help="through torch.compile, the whole model or block by block; default: the model",
    )
    parser.add_argument("--allocator", choices=("keep", "default"), default="keep")
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each of the two")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    parser.add_argument("--peak", choices=CANDIDATES, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> list[list[str | float]]:
    """One row a candidate."""
    torch.compiler.reset()  # its limit of recompilations would leave later models uncompiled
    images, labels = make_batch(options)
    models = {name: make_model(name, options) for name in options.models}
    inference = {n: inference_step(m, images, options) for n, m in models.items()}
    training = {n: training_step(m, images, labels, options) for n, m in models.items()}
    if options.device in ACCELERATORS:
        peaks = {n: peak_allocated_bytes(m, training[n], options) for n, m in models.items()}
    else:
        peaks = {name: peak_in_a_process(name) for name in options.models}
    idle = medians(take_turns(inference, options.seconds, options.device))
    busy = medians(take_turns(training, options.seconds, options.device))
    first = options.models[0]
    return [
        [
            label(name, options),
            f"{sum(parameter.numel() for parameter in models[name].parameters()):,}",
            idle[name],
            idle[name] / idle[first],
            busy[name],
            busy[name] / busy[first],
            1e3 * options.batch / busy[name],
            peaks[name] / 1e6,
            peaks[name] / peaks[first],
        ]
        for name in options.models
    ]


def label(name: str, options: argparse.Namespace) -> str:
    """For example kat_tiny, plain."""
    family, kwargs = CANDIDATES[name]
    return f"{family}_{options.size}" + (f", {name}" if kwargs or name == "frozen" else "")


def model_name(family: str, options: argparse.Namespace) -> str:
    """As timm's registry has it."""
    return f"{family}_{options.size}_{GRIDS[options.size]}"


def make_model(name: str, options: argparse.Namespace) -> nn.Module:
    """A candidate of the size asked for."""
    torch.manual_seed(0)
    family, kwargs = CANDIDATES[name]
    model = timm.create_model(model_name(family, options), **kwargs)
    model = model.to(options.device)
    if name == "frozen":
        for act in rationals(model).values():
            act.requires_grad_(False)
    if options.compile:
        for part in model.blocks if options.compile == "blocks" else [model]:
            part.compile()
    return model


def make_batch(options: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(0)
    config = timm.get_pretrained_cfg(model_name("kat", options))
    images = torch.randn(options.batch, *config.input_size, generator=generator)
    labels = torch.randint(0, config.num_classes, (options.batch,), generator=generator)
    return images.to(options.device), labels.to(options.device)


def inference_step(
    model: nn.Module, images: Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """A forward pass in evaluation mode."""

    @torch.inference_mode()
    def step() -> None:
        model.eval()
        with autocast(options):
            model(images)

    return step


def training_step(
    model: nn.Module, images: Tensor, labels: Tensor, options: argparse.Namespace
) -> Callable[[], None]:
    """A forward and a backward pass in training mode."""

    def step() -> None:
        model.train()
        model.zero_grad(set_to_none=False)
        with autocast(options):
            loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()

    return step


def autocast(options: argparse.Namespace) -> torch.autocast:
    """To the dtype asked for, if any."""
    dtype = getattr(torch, options.amp or "bfloat16")
    return torch.autocast(options.device, dtype, enabled=bool(options.amp))


def peak_allocated_bytes(
    model: nn.Module, step: Callable[[], None], options: argparse.Namespace
) -> int:
    """Bytes above what is allocated before, over two training steps, on a device of its own memory.

    The step before them compiles, and makes the workspaces of libraries.
    """
    accelerator = ACCELERATORS[options.device]
    step()
    model.zero_grad(set_to_none=True)
    before = accelerator.memory_allocated()
    accelerator.reset_peak_memory_stats()
    step(), step()
    return accelerator.max_memory_allocated() - before


def peak_in_a_process(name: str) -> int:
    """The peak memory of a candidate on the CPU, measured by this script in its own process."""
    command = [sys.executable, *sys.argv, "--peak", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"the peak memory of {name} cannot be measured: it needs Linux's /proc")
    return int(done.stdout)


def peak_resident_bytes(name: str, options: argparse.Namespace) -> int:
    """Bytes of this process above what model and batch take, over two training steps.

    What is compiled takes a step before them: the compiler's memory does not count.
    """
    images, labels = make_batch(options)
    model = make_model(name, options)
    step = training_step(model, images, labels, options)
    if options.compile:
        step()
        model.zero_grad(set_to_none=True)
        reset_peak()
    before = resident("VmRSS")
    step(), step()
    return resident("VmHWM") - before


if __name__ == "__main__":
    main()
