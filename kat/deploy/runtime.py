"""Opening stored models of every kind as modules: checkpoints, ``.pt2``, ``.onnx``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from kat.deploy.export_record import PICTURES, ExportRecord
from kat.deploy.formats import FORMATS, PROGRAMS
from kat.deploy.model_forms import make_resizable, size_step
from kat.errors import InputError, unknown
from kat.models import ModelRecord, from_pretrained, load_model
from kat.models.dense import DenseModel, placed_in_image

HUB = "hf-hub:"
"""The beginning of the name of a model on the Hugging Face Hub, as timm writes it."""


class Runtime(nn.Module):
    """An exported model as a module, on the CPU and always in evaluation mode.

    Args:
        run: maps images (B, C, H, W), float32 and on the CPU, to logits (B, classes), or for a
            segmentation model (B, classes, H, W).
        record: the record of the file.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.deploy import export_model, open_file
        >>> from kat.models import load_model
        >>> _ = export_model(*load_model(Path("runs/digits")), Path("digits.onnx"))
        >>> runtime = open_file(Path("digits.onnx"))
        >>> runtime(torch.randn(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(self, run: Callable[..., Any], record: ExportRecord) -> None:
        super().__init__()
        # In a tuple, so that it is not a submodule: exported programs reject eval() and train().
        self._run = (run,)
        self.record = record
        self.task = record.task
        self.window = record.window
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Do nothing: an exported model stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Any:
        """Logits (B, classes), or (B, classes, H, W), on the images' device.

        Images smaller than a segmentation model's window are padded on the right and below.

        Raises:
            InputError: images of a size that the file does not take.
        """
        if self.window is None:
            return self._outputs(images)
        height, width = images.shape[-2:]
        rows, columns = self.record.model.input_size[1:]
        padding = (0, max(0, columns - width), 0, max(0, rows - height))
        return self._outputs(functional.pad(images, padding))[..., :height, :width]

    def _outputs(self, images: Tensor) -> Any:
        self.record.check_size(images.shape)
        outputs = self._run[0](images.float().cpu())
        if isinstance(outputs, dict):
            return {name: one.to(images.device) for name, one in outputs.items()}
        return outputs.to(images.device)


class DetectorRuntime(Runtime):
    """An exported detector, which does what :class:`kat.models.dense.Detector` does in evaluation.

    The file resizes each image in the same way; the masks of the objects are placed here.

    Args:
        run: see :class:`kat.deploy.formats.detector_onnx.OneImage`.
        record: the record of the file.
    """

    def __init__(self, run: Callable[..., Any], record: ExportRecord) -> None:
        super().__init__(run, record)
        self.score_threshold: float = record.model.args["rcnn"]["box_score_thresh"]

    @torch.no_grad()
    def forward(  # type: ignore[override]
        self, images: Sequence[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Return the detections in each image (C, H, W): see :class:`kat.models.dense.Detector`."""
        return [self._detections(image) for image in images]

    def _detections(self, image: Tensor) -> dict[str, Tensor]:
        found = self._run[0](image.float().cpu(), torch.tensor(self.score_threshold))
        placed = placed_in_image(found, image.shape[-2:])
        return {name: one.to(image.device) for name, one in placed.items()}


def open_file(path: str | Path, *, trust: bool = False) -> Runtime:
    """Open a ``.pt2`` or ``.onnx`` file of 'kat export'.

    Args:
        path: the path of the file.
        trust: True opens a file that may run code of its author's, which a ``.pt2`` is.

    Raises:
        InputError: the file does not exist, is damaged or something else, or is not trusted; or a
            package is missing.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import export_model, open_file
        >>> from kat.models import load_model
        >>> _ = export_model(*load_model(Path("runs/digits")), Path("digits.onnx"))
        >>> open_file(Path("digits.onnx")).record.model.classes[:3]
        ['0', '1', '2']
    """
    path = Path(path)
    ending = path.suffix.removeprefix(".")
    if ending in PROGRAMS and path.is_file() and not trust:
        raise InputError(
            f"{path} is a program: opening it runs whatever code its author put into it. If you"
            " trust the author, 'kat predict' and 'kat eval' open it with --trust (kat.load with"
            " trust=True). Run directories, model folders, .safetensors, .ckpt and .onnx files"
            " run no code and need no trust"
        )
    if ending not in FORMATS:
        raise unknown("ending of an exported file", ending, FORMATS)
    run, record = FORMATS[ending].read(path)
    if record.task == PICTURES:
        raise InputError(
            f"{path} prepares images itself, for programs without kat: for kat, export the model"
            " without --with-preprocessing"
        )
    kind = DetectorRuntime if record.resizes else Runtime
    return kind(run, record)


def open_model(
    path: str | Path, image_size: int | None = None, *, trust: bool = False
) -> tuple[nn.Module, ModelRecord]:
    """Open a stored model of any kind, in evaluation mode, and its record.

    Args:
        path: a ``.pt2`` or ``.onnx`` file of 'kat export', whatever
            :func:`kat.models.load_model` loads, or ``hf-hub:OWNER/NAME``.
        image_size: side of the square images to take, by default the model's own; for a
            segmentation model the shorter side of any image, for a detector the longer one.
        trust: see :func:`open_file`.

    Raises:
        InputError: there is no model, the file is damaged or something else or not trusted, it is
            only a backbone, a package is missing, or the model does not take that image size.

    Examples:
        >>> from pathlib import Path
        >>> from kat.deploy import open_model
        >>> model, record = open_model(Path("runs/digits"))
        >>> record.architecture, record.input_size
        ('kat_micro_patch2_8', (1, 8, 8))
    """
    model, _, record = open_resized(path, image_size, trust=trust)
    return model, record


def open_resized(
    path: str | Path, image_size: int | None = None, *, trust: bool = False
) -> tuple[nn.Module, ModelRecord, ModelRecord]:
    """Open a model as :func:`open_model` does: the model, the stored record, and its own."""
    path = Path(path)
    model: nn.Module
    if path.suffix.removeprefix(".") in FORMATS and not path.is_dir():
        model = open_file(path, trust=trust)
        stored = model.record
        if stored.task == "features":
            raise InputError(
                f"{path} is a backbone without heads, which predicts nothing: export the model"
                " without --backbone"
            )
    else:
        on_hub = str(path).startswith(HUB)
        found = from_pretrained(str(path).removeprefix(HUB)) if on_hub else load_model(path)
        model, record = found
        if image_size is not None and not isinstance(model, DenseModel):
            model = make_resizable(model, record)
        stored = ExportRecord(record, size_step(model))
    if image_size is None:
        return model, stored.model, stored.model
    resized = (stored.model.input_size[0], image_size, image_size)
    if isinstance(model, DenseModel):
        model.set_image_size(image_size)
    elif stored.resizes and resized != stored.model.input_size:
        raise InputError(
            f"{path} scales images to {stored.model.input_size[1]} pixels itself, not to"
            f" {image_size}: call the model's set_image_size, and export it again"
        )
    elif not stored.resizes:
        stored.check_size(torch.Size([1, *resized]))
    return model, stored.model, replace(stored.model, input_size=resized)
