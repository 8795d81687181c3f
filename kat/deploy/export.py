"""A trained model as one file that runs elsewhere, checked against the model before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kat.deploy.formats.detector_onnx import objects_distance, record_of, write_detector
from kat.deploy.formats.onnx import write_onnx
from kat.deploy.formats.pt2 import write_pt2
from kat.deploy.freezing import freeze
from kat.deploy.program import size_step, trace
from kat.deploy.quantization import quantize_int8
from kat.deploy.runtime import Runtime, open_file
from kat.deploy.stored_record import StoredRecord
from kat.errors import ExportFailed, InputError, unknown
from kat.files import check_target, replacing
from kat.models import ModelRecord
from kat.models.dense import Detector, task_of

TOLERANCE = 1e-5
"""How far an export's logits, or features, may be from the model's, relative to the largest."""
OBJECTS_TOLERANCE = 1e-4
"""How far a detector's objects may be, see :func:`.formats.detector_onnx.objects_distance`."""

_WRITERS = {"pt2": write_pt2, "onnx": write_onnx}
FILE_FORMATS = tuple(_WRITERS)
ANSWERS = {"detection": "objects", "features": "features"}
"""What a model of a task gives, if not logits."""


@dataclass(frozen=True)
class Exported:
    """What came out of an export.

    Args:
        path: the file.
        size: its bytes.
        error: the largest distance of the file's logits from the model's, over the largest of
            these, on noise; of int8 from those of the quantised model in PyTorch. Of a detector
            see :func:`kat.deploy.formats.detector_onnx.objects_distance`.
        moved: the same distance of an int8 model from the float one; 0 without int8.
        record: what the file says of itself.
    """

    path: Path
    size: int
    error: float
    moved: float
    record: StoredRecord


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

    A detector becomes an ``.onnx`` file for one image, whose
    objects agree to :data:`OBJECTS_TOLERANCE`.

    Args:
        model: ready to evaluate, on the CPU; or :class:`kat.deploy.FeatureMaps` of one.
        record: its description.
        path: the file; its ending says which format.
        int8: hold the weights of the linear maps in int8 (:func:`quantize_int8`).

    Raises:
        InputError: no such folder, another ending, a detector in another form, a model that cannot
            be traced or whose own answers are not finite, a package that is not installed.
        ExportFailed: the file's answers are not the model's; nothing is left.
    """
    ending = path.suffix.removeprefix(".")
    if ending not in _WRITERS:
        raise unknown("ending of an exported file", ending, _WRITERS)
    check_target(path)
    if isinstance(model, Detector):
        return _export_detector(model, record, path, int8)
    stored = StoredRecord(record, size_step(model), task_of(model))
    frozen = freeze(model)
    exported = quantize_int8(frozen) if int8 else frozen
    expected = exported if int8 else model
    batches = list(_batches(stored))
    moved = _distance(exported, model, batches) if int8 else 0.0
    program = trace(exported, record)
    size, error = _keep(
        path,
        lambda partial: _WRITERS[ending](program, stored, partial),
        lambda opened: _distance(opened, expected, batches),
        TOLERANCE,
    )
    return Exported(path, size, error, moved, stored)


def _export_detector(model: Detector, record: ModelRecord, path: Path, int8: bool) -> Exported:
    if path.suffix != ".onnx" or int8:
        raise InputError(
            f"{record.architecture}, a detector, can be exported to .onnx alone, and without int8:"
            " torch.export takes no model whose number of answers depends on the image. It takes"
            " the backbone: --backbone"
        )
    stored = record_of(model, record)
    size, error = _keep(
        path,
        lambda partial: write_detector(model, stored, partial),
        lambda opened: objects_distance(opened.find, model, stored),
        OBJECTS_TOLERANCE,
    )
    return Exported(path, size, error, 0.0, stored)


def _keep(
    path: Path,
    write: Callable[[Path], None],
    distance: Callable[[Any], float],
    tolerance: float,
) -> tuple[int, float]:
    """Writes a file, and gives it its name if it is as near to the model as it must be.

    Args:
        path: its name.
        write: writes it at a path.
        distance: of the opened file's answers from the model's.
        tolerance: the largest distance that is allowed.

    Returns:
        The file's bytes, and the distance.
    """
    with replacing(path) as partial:
        write(partial)
        opened: Runtime = open_file(partial)
        error = distance(opened)
        if not error <= tolerance:
            answers = ANSWERS.get(opened.task, "logits")
            raise ExportFailed(
                f"{path} was not kept: its {answers} are {error:.1e} from the model's, relative to"
                f" the largest, where {tolerance:.0e} is allowed"
            )
        return partial.stat().st_size, error


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
    """max |y - y'| / max |y'| over the batches, of the worst output; NaN where y has one."""
    pairs = [(_by_name(model(images)), _by_name(expected(images))) for images in batches]
    if not all(want.isfinite().all() for _, answer in pairs for want in answer.values()):
        raise InputError("the model's own answers are not finite; there is nothing to export")
    ratios = []
    for name in pairs[0][1]:
        errors = torch.stack([(got[name] - want[name]).abs().max() for got, want in pairs])
        ratios.append(
            errors.max() / torch.stack([want[name].abs().max() for _, want in pairs]).max()
        )
    return torch.stack(ratios).max().item()


def _by_name(answer: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return answer if isinstance(answer, dict) else {"logits": answer}
