"""A trained model as one file that runs elsewhere, checked against the model before it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kat.deploy.freezing import freeze
from kat.deploy.onnx_file import write_onnx
from kat.deploy.program import size_step, trace
from kat.deploy.pt2_file import write_pt2
from kat.deploy.quantization import quantize_int8
from kat.deploy.runtime import open_model
from kat.deploy.stored_record import StoredRecord
from kat.errors import ExportFailed, InputError, unknown
from kat.files import check_target, replacing
from kat.models import ModelRecord
from kat.models.dense import task_of

TOLERANCE = 1e-5
"""How far an export's logits may be from the model's, relative to the largest of them."""

_WRITERS = {"pt2": write_pt2, "onnx": write_onnx}
FILE_FORMATS = tuple(_WRITERS)


@dataclass(frozen=True)
class Exported:
    """What came out of an export.

    Args:
        path: the file.
        size: its bytes.
        error: the largest distance of the file's logits from the model's, over the largest of
            these, on noise; of int8 from those of the quantised model in PyTorch.
        moved: the same distance of an int8 model from the float one; 0 without int8.
        step: see :class:`kat.deploy.StoredRecord`.
    """

    path: Path
    size: int
    error: float
    moved: float
    step: tuple[int, int] | None


@torch.no_grad()
def export_model(
    model: nn.Module, record: ModelRecord, path: Path, *, int8: bool = False
) -> Exported:
    """Writes a model as a ``.pt2`` or ``.onnx`` file that stands alone.

    The model is frozen (:func:`freeze`) and traced as plain operations, for batches of any size; a
    model with ``dynamic_img_size=True`` also for images of any size that its patches divide. The
    file holds the record. It is written under another name, opened again, and run beside the model
    on noise, batches and sizes other than those traced included; only if the logits agree
    to :data:`TOLERANCE` does it get its name.

    Args:
        model: ready to evaluate, on the CPU.
        record: its description.
        path: the file; its ending says which format.
        int8: hold the weights of the linear maps in int8 (:func:`quantize_int8`).

    Raises:
        InputError: no such folder, another ending, a detector, a model that cannot be traced or
            whose own logits are not finite, a package that is not installed.
        ExportFailed: the file's logits are not the model's; nothing is left.
    """
    ending = path.suffix.removeprefix(".")
    if ending not in _WRITERS:
        raise unknown("ending of an exported file", ending, _WRITERS)
    check_target(path)
    task = task_of(model)
    if task == "detection":
        raise InputError(
            f"{record.architecture} cannot be exported: torch.export takes no model whose number of"
            " answers depends on the image; docs/dense.md has the lines that write ONNX"
        )
    stored = StoredRecord(record, size_step(model), task)
    frozen = freeze(model)
    exported = quantize_int8(frozen) if int8 else frozen
    expected = exported if int8 else model
    batches = list(_batches(stored))
    moved = _distance(exported, model, batches) if int8 else 0.0
    program = trace(exported, record)
    with replacing(path) as partial:
        _WRITERS[ending](program, stored, partial)
        error = _distance(open_model(partial)[0], expected, batches)
        if not error <= TOLERANCE:
            raise ExportFailed(
                f"{path} was not kept: its logits are {error:.1e} from the model's, relative to"
                f" the largest, where {TOLERANCE:.0e} is allowed"
            )
        size = partial.stat().st_size
    return Exported(path, size, error, moved, stored.step)


def _batches(stored: StoredRecord) -> Iterator[Tensor]:
    """Noise in batches of 1 and 3, and where other image sizes are allowed, one of these."""
    generator = torch.Generator().manual_seed(0)
    channels, height, width = stored.model.input_size
    for count in (1, 3):
        yield torch.randn(count, channels, height, width, generator=generator)
    if stored.step is not None:
        rows, columns = stored.step
        yield torch.randn(2, channels, height + rows, width + 2 * columns, generator=generator)


def _distance(model: nn.Module, expected: nn.Module, batches: list[Tensor]) -> float:
    """max |y - y'| / max |y'| over the batches; NaN where y has one."""
    pairs = [(model(images), expected(images)) for images in batches]
    if not all(want.isfinite().all() for _, want in pairs):
        raise InputError("the model's own logits are not finite; there is nothing to export")
    errors = torch.stack([(got - want).abs().max() for got, want in pairs])
    return (errors.max() / torch.stack([want.abs().max() for _, want in pairs]).max()).item()
