"""Sizes and CPU latency of a KAT in every form that it can be deployed in.

    python benchmarks/deploy.py
    python benchmarks/deploy.py --models kat_tiny_patch16_224 --batches 1 --seconds 30

  eager             the model as it is
  frozen            kat.deploy.freeze of it
  compiled          torch.compile of the frozen model
  pt2               the .pt2 file, run by torch
  pt2 compiled      torch.compile of that
  onnxruntime       the .onnx file
  int8 pt2, int8 onnxruntime    the files with int8 weights

All take turns in one process, on the same images and with the same number of threads; times are
medians in ms a batch, ratios are to eager. Weights are those of the initialization. Coefficients
are moved a little, as training does: freezing leaves out a rational that is the identity. Sizes are
those of the files, of eager that of model.safetensors. The error is the largest distance of the
logits from eager's over the largest of these.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import timm
import torch
from timing import header, keep_freed_memory, medians, print_table, take_turns, write_csv
from torch import Tensor, nn

import kat  # noqa: F401  (registers the models)
from kat.deploy import export_model, freeze, open_model
from kat.models import ModelRecord, save_model
from kat.nn import rationals

MODELS = ("kat_micro", "kat_tiny_patch16_224", "kat_small_patch16_224", "kat_base_patch16_224")
MOVED = 1e-3
"""Standard deviation of what is added to each coefficient."""
COLUMNS = ("model", "form", "MB", "error", "batch", "ms", "ratio")


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=MODELS[:2], help="names in timm's registry")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 16))
    parser.add_argument("--seconds", type=float, default=60.0, help="time for each batch size")
    parser.add_argument("--no-compile", action="store_true", help="leave the compiled forms out")
    parser.add_argument("--csv", type=Path, help="also write the table there")
    options = parser.parse_args()
    keep_freed_memory()
    print(header("cpu"), versions(), sep="\n")
    rows = [row for name in options.models for row in measure(name, options)]
    print_table(COLUMNS, rows)
    if options.csv:
        write_csv(options.csv, "cpu", COLUMNS, rows)


def versions() -> str:
    """Of what else takes part."""
    return ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torchao", "timm"))


def measure(name: str, options: argparse.Namespace) -> list[list[str | float]]:
    """One row a form and batch size."""
    rows: list[list[str | float]] = []
    with TemporaryDirectory() as folder:
        forms, sizes = make_forms(name, Path(folder), compiled=not options.no_compile)
        for batch in options.batches:
            images = make_images(forms["eager"], batch)
            with torch.inference_mode():
                want = forms["eager"](images)
                errors = {form: distance(model(images), want) for form, model in forms.items()}
            steps = {form: step(model, images) for form, model in forms.items()}
            times = medians(take_turns(steps, options.seconds, "cpu"))
            rows += [
                [name, form, sizes[form], errors[form], str(batch), ms, ms / times["eager"]]
                for form, ms in times.items()
            ]
    return rows


def make_forms(
    name: str, folder: Path, *, compiled: bool
) -> tuple[dict[str, nn.Module], dict[str, float]]:
    """The model in every form, and the sizes of their files in MB, NaN where there is none."""
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    move_coefficients(model)
    record = record_of(model, name)
    save_model(model, record, folder)
    forms = {"eager": model, "frozen": freeze(model)}
    stored = (folder / "model.safetensors").stat().st_size / 1e6
    sizes = {"eager": stored, "frozen": float("nan")}
    for form, file, int8 in (
        ("pt2", "m.pt2", False),
        ("onnxruntime", "m.onnx", False),
        ("int8 pt2", "m8.pt2", True),
        ("int8 onnxruntime", "m8.onnx", True),
    ):
        sizes[form] = export_model(model, record, folder / file, int8=int8).size / 1e6
        forms[form], _ = open_model(folder / file, trust=True)
    if compiled:
        torch.compiler.reset()  # its limit of recompilations would leave later models uncompiled
        program = torch.export.load(folder / "m.pt2").module()
        forms["compiled"] = torch.compile(freeze(model), dynamic=False)
        forms["pt2 compiled"] = torch.compile(program, dynamic=False)
        sizes |= {"compiled": float("nan"), "pt2 compiled": float("nan")}
    return forms, sizes


@torch.no_grad()
def move_coefficients(model: nn.Module) -> None:
    """Moves the coefficients of all rationals by little."""
    for act in rationals(model).values():
        for parameter in act.parameters():
            parameter.add_(MOVED * torch.randn_like(parameter))


def record_of(model: nn.Module, name: str) -> ModelRecord:
    """The record of a registered model with its default preprocessing."""
    data = timm.data.resolve_model_data_config(model)
    return ModelRecord(
        architecture=name,
        classes=[str(index) for index in range(model.num_classes)],
        input_size=data["input_size"],
        mean=data["mean"],
        std=data["std"],
        interpolation=data["interpolation"],
        crop_pct=data["crop_pct"],
    )


def make_images(model: nn.Module, batch: int) -> Tensor:
    """Noise of the model's size."""
    size = timm.data.resolve_model_data_config(model)["input_size"]
    return torch.randn(batch, *size, generator=torch.Generator().manual_seed(0))


def distance(got: Tensor, want: Tensor) -> float:
    """max |got - want| / max |want|."""
    return ((got - want).abs().max() / want.abs().max()).item()


def step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """One forward pass."""

    @torch.inference_mode()
    def run() -> None:
        model(images)

    return run


if __name__ == "__main__":
    main()
