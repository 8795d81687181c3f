"""Export of a trained model to one file, checked against the model before it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kat.deploy.export_record import PICTURES, ExportRecord
from kat.deploy.formats import FORMATS, detector_onnx, onnx, pt2, transformers_folder
from kat.deploy.freezing import freeze, quantize_int8
from kat.deploy.model_forms import size_step
from kat.errors import ExportFailed, InputError
from kat.extras import needed_by
from kat.files import check_new_folder, check_target, replacing
from kat.models import ModelRecord
from kat.models.dense import Detector, task_of

TOLERANCE = 1e-5
"""The largest distance of a file's logits or features from the model's, relative to the largest."""
DETECTIONS_TOLERANCE = 1e-4
"""The same of probabilities; of detections :func:`.formats.detector_onnx.detections_distance`."""


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Args:
        path: the file.
        error: the largest distance of the file's logits from the model's, divided by the largest of
            these, on noise; for int8 from the logits of the quantized model in PyTorch. With
            preprocessing, the same of probabilities. For a detector see
            :func:`kat.deploy.formats.detector_onnx.detections_distance`.
        moved: the same distance of an int8 model from the float one; 0 without int8.
        record: the record of the file.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import TOLERANCE, export_model
        >>> from kat.models import load_model
        >>> exported = export_model(*load_model(Path("runs/digits")), Path("digits.onnx"))
        >>> exported.error <= TOLERANCE
        True
    """

    path: Path
    error: float
    moved: float
    record: ExportRecord

    @property
    def size(self) -> int:
        """Of the file, in bytes."""
        return self.path.stat().st_size


@needed_by("export")
@torch.no_grad()
def export_model(
    model: nn.Module,
    record: ModelRecord,
    path: str | Path,
    *,
    int8: bool = False,
    run: Mapping[str, Any] = {},
) -> Exported:
    """Write a model to a self-contained ``.pt2`` or ``.onnx`` file.

    The model is frozen (:func:`freeze`) and traced to plain operations, for any batch size; a model
    with ``dynamic_img_size=True`` also for any image size that its patches divide. The file holds
    the record. It is written under a temporary name, opened, and run beside the model on noise,
    also with other batch and image sizes than those traced. It is renamed only if the logits agree
    to :data:`TOLERANCE`.

    A classifier with its preprocessing becomes an ``.onnx`` file whose input ``image`` is (H, W, 3)
    uint8, of any size. It returns the names of all ``classes``, the most likely first, and their
    ``probabilities``.

    A detector becomes an ``.onnx`` file for one image, whose detections agree to
    :data:`DETECTIONS_TOLERANCE`.

    Args:
        model: in evaluation mode, on the CPU; or its :class:`kat.deploy.FeatureMaps`; or a
            classifier :class:`kat.deploy.WithPreprocessing`, for ``.onnx``.
        record: the record of the model.
        path: the path of the file; its ending is the format.
        int8: store the weights of linear maps in int8 (:func:`quantize_int8`).
        run: the data and the seed of the training, for the record; see :class:`ExportRecord`.

    Raises:
        InputError: the folder does not exist, another ending, a detector in another format, a
            package that is missing.
        ExportFailed: the outputs of the file differ from the model's, or are not finite; it is not
            kept.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import export_model
        >>> from kat.models import load_model
        >>> model, record = load_model(Path("runs/digits"))
        >>> exported = export_model(model, record, Path("digits.onnx"))
        >>> exported.path
        PosixPath('digits.onnx')
    """
    path = Path(path)
    task = task_of(model)
    formats = ["onnx"] if task == PICTURES else FORMATS
    check_target(path, [f".{ending}" for ending in formats])
    if isinstance(model, Detector):
        return _export_detector(model, record, path, int8=int8, run=run)
    stored = ExportRecord(record, size_step(model), task, run)
    batches = list(_batches(stored))
    frozen, expected, moved = freeze(model), model, 0.0
    if int8:
        frozen = expected = quantize_int8(frozen)
        moved = _distance(frozen, model, batches)
    program = pt2.trace(frozen, record)
    file_format = FORMATS[path.suffix[1:]]
    with replacing(path) as partial:
        file_format.write(program, stored, partial)
        opened, _ = file_format.read(partial)
        error = _distance(opened, expected, batches)
        _check(error, path, stored)
    return Exported(path, error, moved, stored)


@torch.no_grad()
def export_transformers(model: nn.Module, record: ModelRecord, folder: str | Path) -> None:
    """Write a KAT for classification to a folder that transformers loads without kat.

    The folder holds the weights, the preprocessing and the code of the model, which needs torch and
    transformers only. It is written only if the logits of that code agree to :data:`TOLERANCE` on
    noise.

    Args:
        model: in evaluation mode, on the CPU.
        record: the record of the model.
        folder: a new or an empty folder.

    Raises:
        InputError: the folder holds files, transformers is not installed, or another model.
        ExportFailed: the logits differ from the model's.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import export_transformers
        >>> from kat.models import load_model
        >>> export_transformers(*load_model(Path("runs/digits")), "mine")
        >>> sorted(path.name for path in Path("mine").glob("*.py"))
        ['configuration_kat.py', 'modeling_kat.py']
    """
    folder = Path(folder)
    check_new_folder(folder)
    built = transformers_folder.build(model, record)
    stored = ExportRecord(record, step=None)
    error = _distance(lambda images: built(images).logits, model, list(_batches(stored)))
    _check(error, folder, stored)
    transformers_folder.write(built, record, folder)


def _export_detector(
    model: Detector, record: ModelRecord, path: Path, *, int8: bool, run: Mapping[str, Any]
) -> Exported:
    if path.suffix != ".onnx" or int8:
        raise InputError(
            f"{record.architecture}, a detector, can be exported to .onnx only, without int8:"
            " torch.export supports no model whose number of outputs depends on the image. It"
            " supports the backbone: --backbone"
        )
    stored = detector_onnx.detector_record(model, record)._replace(run=run)
    with replacing(path) as partial:
        detector_onnx.write(model, stored, partial)
        detect, _ = onnx.read(partial)
        error = detector_onnx.detections_distance(detect, model, stored)
        _check(error, path, stored)
    return Exported(path, error, 0.0, stored)


def _check(error: float, path: Path, record: ExportRecord) -> None:
    tolerance = DETECTIONS_TOLERANCE if record.resizes else TOLERANCE
    if not error <= tolerance:
        raise ExportFailed(
            f"{path} was not kept: its {record.outputs} differ from the model's by {error:.1e},"
            f" relative to the largest; at most {tolerance:.0e} is allowed"
        )


def _batches(stored: ExportRecord) -> Iterator[Tensor]:
    """Noise in batches of 1 and 3, and if other image sizes are allowed, in one of these.

    For a classifier with its preprocessing, a picture of noise.
    """
    generator = torch.Generator().manual_seed(0)
    channels, height, width = stored.model.input_size
    if stored.task == PICTURES:
        size = (3 * height, 2 * width, 3)
        yield torch.randint(256, size, generator=generator, dtype=torch.uint8)
        return
    for count in (1, 3):
        yield torch.randn(count, channels, height, width, generator=generator)
    if stored.step is not None:
        rows, columns = stored.step
        yield torch.randn(2, channels, height + rows, width + 2 * columns, generator=generator)


def _distance(model: Callable[..., Any], expected: nn.Module, batches: list[Tensor]) -> float:
    """max |y - y'| / max |y'| over the batches, for the worst output; NaN if y or y' has one."""
    pairs = [(_by_name(model(images)), _by_name(expected(images))) for images in batches]
    ratios = []
    for name in pairs[0][0]:
        errors = torch.stack([(got[name] - want[name]).abs().max() for got, want in pairs])
        sizes = torch.stack([want[name].abs().max() for _, want in pairs])
        # zeros, as of a head before training, are right or wrong without a scale
        ratios.append(errors.max() / sizes.max() if sizes.any() else errors.max())
    return torch.stack(ratios).max().item()


def _by_name(outputs: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
    return outputs if isinstance(outputs, dict) else {"logits": outputs}
