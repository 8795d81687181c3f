"""Train, load and evaluate a model: the commands of ``kat`` as calls, for scripts and notebooks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from kat import training
from kat.data import UnreadableImage, decode, eval_transform
from kat.data.decoding import Exif, in_channels, rgb_of
from kat.data.folders import image_files
from kat.deploy.formats import FORMATS
from kat.deploy.runtime import open_resized
from kat.errors import InputError, check_is
from kat.models import ModelRecord, save_model
from kat.models.dense import task_of
from kat.notebook import table_html
from kat.text import dimensions, listing
from kat.training import EvalConfig, Evaluation, Prediction, Summary
from kat.training.evaluation.run_data import data_of_run, data_to_test
from kat.training.record.run_directory import SETTINGS
from kat.training.settings.recipes import config_from, given_settings, read_recipe
from kat.training.tasks.classes import TASK_CLASSES
from kat.training.tasks.classification.temperature import (
    calibration_of,
    described,
    divide_logits,
)
from kat.training.tasks.evaluation import Subject, device_of
from kat.training.tasks.registry import task_options

Picture = str | Path | Image.Image | np.ndarray | Tensor
"""An image: a path, a PIL image, an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W)."""
_IN_MEMORY = (Image.Image, np.ndarray, Tensor)


def train(
    recipe: str | Path | None = None,
    *,
    data: str | None = None,
    model: str | None = None,
    init_from: str | Path | None = None,
    out: str | Path | None = None,
    epochs: int | Literal["auto"] | None = None,
    device: str | None = None,
    seed: int | None = None,
    resume: bool | Literal["auto"] | None = None,
    overwrite: bool | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Summary:
    """Train a model and return a summary of the run.

    Use this when you want to do what ``kat train`` does from Python or a notebook. ``settings``
    overrides the recipe, and the arguments before ``settings`` override both. Other settings have
    the values of the recipe, or in a resumed run their earlier ones.

    On several devices, by default all GPUs, the call runs your script again in one process per
    device, as torchrun does, and ends when they end. In a notebook set ``{"devices": 1}``.

    Args:
        recipe: the name of a shipped recipe, or the path of a YAML file. None: the recipe for the
            task of your data. ``"none"``: the defaults of all settings.
        data: the dataset, e.g. ``"folder:photos"``: ``data.name`` of :class:`kat.data.DataConfig`.
        model: a model of timm's registry: ``model.name`` of :class:`kat.training.ModelConfig`.
        init_from: a trained ViT or KAT to start from: ``model.init_from``.
        out: the run directory.
        epochs: passes over the training data.
        device: auto, cpu, cuda or mps: ``accelerator`` of :class:`kat.training.TrainConfig`.
        seed: seed of weights, data order and augmentation.
        resume: True: resume the run in ``out``; ``"auto"``: resume it if there is one.
        overwrite: delete the run in ``out`` first.
        settings: any settings, with dotted names, ``{"optim.lr": 1e-3}``, or nested.

    Returns:
        The summary of the run: its metrics, its best epoch, its directory.

    Raises:
        InputError: bad settings or data, or a directory that already holds a run. More
            errors are listed at :func:`kat.training.train`.

    Examples:
        >>> import kat
        >>> short = {"model.args.depth": 1, "limit_train_batches": 2, "progress": False}
        >>> summary = kat.train("digits", out="runs/three", epochs=1, device="cpu", settings=short)
        optim...
        >>> summary.task, summary.epochs
        ('classification', 1)
    """
    named = {
        "data.name": data, "model.name": model, "model.init_from": init_from, "out": out,
        "epochs": epochs, "accelerator": device, "seed": seed, "resume": resume,
        "overwrite": overwrite,
    }  # fmt: skip
    given = {name: value for name, value in named.items() if value is not None}
    content = read_recipe(recipe)
    return training.train(given_settings(settings or {}, given, recipe=content))


def load(
    path: str | Path, *, device: str = "auto", image_size: int | None = None, trust: bool = False
) -> TrainedModel:
    """Load a trained model.

    Use this when you want predictions or features in Python.

    Args:
        path: a run directory (its best weights), a model folder, a ``.ckpt`` file, a file of
            weights beside its config.json or of an official KAT, ``"hf-hub:OWNER/NAME"`` of the
            Hugging Face Hub, or a ``.onnx`` or ``.pt2`` file of ``kat export``. Without a file or
            folder of that name, ``"digits"`` is a small KAT that comes with the library: trained
            on scikit-learn's digits, 8 x 8 pixels, light ink on black.
        device: auto (a GPU if there is one), cpu, cuda, cuda:1, mps.
        image_size: side of the square that the model sees, in pixels; of a segmentation model the
            shorter side of the image, of a detector the longer one. None: as stored.
        trust: open ``.pt2`` files, which are programs that run with your permissions.

    Raises:
        InputError: there is no model, the file is damaged or not trusted, a package is missing, or
            the model does not take that image size.

    Examples:
        >>> import kat
        >>> model = kat.load("runs/digits")
        >>> model.task, model.classes[:3]
        ('classification', ['0', '1', '2'])
    """
    model, stored, record = open_resized(path, image_size, trust=trust)
    model.to(device_of(model, EvalConfig(device=device)))
    source = os.path.abspath(path) if os.path.exists(path) else path
    return TrainedModel(model, record, source, stored)


def evaluate(
    model: str | Path | TrainedModel,
    data: str | Mapping[str, Any] | None = None,
    *,
    image_size: int | None = None,
    device: str = "auto",
    limit: int | None = None,
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true",
    progress: bool = True,
    keep_logits: bool = False,
    trust: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate a model on a dataset.

    Use this when you want to do what ``kat eval`` does from Python.

    Args:
        model: the path of a model, as :func:`load` takes it, or a loaded one.
        data: the dataset, e.g. ``"folder:photos"``, or a mapping of settings of data, such as
            ``{"name": "hfds/ORG/NAME", "val_split": "test"}``. None: the run's own.
        image_size, trust: as of :func:`load`, for a path.
        device: as of :func:`load`; auto leaves a loaded model where it is.
        limit: evaluate on at most this many images.
        precision: precision of the forward pass.
        progress: show a progress bar in a terminal.
        keep_logits: keep every logit of a classifier, in ``predictions.logits``.
        options: of the task, as ``kat eval --help`` lists them, e.g. ``crop_pct=1.0``.

    Returns:
        Metrics, per class and in total, the confusion matrix, and the skipped files.

    Raises:
        InputError: there is no such model or data, they do not match, or an option is out of range
            or has no effect on the task.

    Examples:
        >>> import kat
        >>> result = kat.evaluate("runs/digits", limit=100)
        >>> result.images, 0 <= result.metrics["top1"] <= 100
        (100, True)
    """
    settings, remark = data_to_evaluate(model, data)
    if not isinstance(model, TrainedModel):
        model = load(model, device=device, image_size=image_size, trust=trust)
    elif image_size is not None:
        raise InputError("the model is loaded already: give image_size to kat.load")
    found = training.evaluate(
        model.model,
        model.stored,
        config_from({"data": settings}).data,
        EvalConfig(
            device=str(model.subject.device) if device == "auto" else device,
            precision=precision,
            limit=limit,
            image_size=model.image_size,
            progress=progress,
            keep_logits=keep_logits,
        ),
        task_options(model.task, "evaluate", options),
        source=model.source,
    )
    found.notes += [remark] if remark else []
    return found


def calibrate(
    run: str | Path,
    data: str | Mapping[str, Any] | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> Evaluation:
    """Lower the calibration error of the probabilities of a trained classifier.

    Fits a temperature T to the images of the evaluation, the one with the lowest cross entropy of
    softmax(logits / T), and divides the last layer of the model in the run directory by it. Every
    prediction and every later export then has the new probabilities. The order of the classes
    stays, and so does best.ckpt. A second calibration starts from the weights before the first.

    Args:
        run: the directory of a finished run.
        data: the dataset, as of :func:`evaluate`, with all classes of the model and none of its
            training images. None: the images that the run was validated on.
        device: as of :func:`load`.
        progress: show a progress bar in a terminal.

    Returns:
        The evaluation before the calibration, with its result in ``details["calibrated"]``.

    Raises:
        InputError: the run has not finished, it is no classifier with a linear last layer, the data
            lacks classes, or its labels determine no temperature. The model is then unchanged.

    Examples:
        >>> import kat
        >>> found = kat.calibrate("runs/digits")  # doctest: +SKIP
        >>> found.details["calibrated"]["temperature"]  # doctest: +SKIP
        0.432
    """
    folder = Path(run)
    if not all((folder / name).is_file() for name in (SETTINGS, "model.safetensors")):
        raise InputError(f"{run} cannot be calibrated: give the directory of a finished run")
    trained = load(folder, device=device)
    model, record = trained.model, trained.record
    before = (record.calibration or {}).get("temperature", 1.0)
    divide_logits(model, record, 1 / before)
    settings, _ = data_to_evaluate(folder, data, test=False)
    found = evaluate(trained, settings, device=device, progress=progress, keep_logits=True)
    if len(found.classes) < len(record.classes):
        raise InputError(
            f"{settings['name']} has {len(found.classes)} of the {len(record.classes)} classes of"
            f" {run}: calibrate with images of all"
        )
    values = calibration_of(found.predictions)
    divide_logits(model, record, values["temperature"])
    save_model(model, replace(record, calibration=values), folder)
    found.details["calibrated"] = values
    found.lines.append(described(values))
    return found


def data_to_evaluate(
    model: str | Path | TrainedModel, data: str | Mapping[str, Any] | None, *, test: bool = True
) -> tuple[dict[str, Any], str]:
    """Return the settings of the data to evaluate a model on, and a remark on them or "".

    Args:
        model: a loaded model, or its path.
        data: its name, or settings; the others, and without a name the dataset, are the run's own.
        test: evaluate on the data's own validation split, although the run held images out.

    Raises:
        InputError: neither says on what dataset.
    """
    given: Any = {"name": data} if isinstance(data, str) else data or {}
    check_is("data", given, Mapping)
    path = Path(model.source if isinstance(model, TrainedModel) else model)
    form = FORMATS.get(path.suffix[1:])
    exported = form.read_record(path).run if form and path.is_file() else None
    if test:
        settings, remark = data_to_test(path, given, exported)
    else:
        settings, remark = data_of_run(path, given, exported), ""
    settings |= given
    if "name" not in settings:
        raise InputError(
            f"{path} does not belong to a run: check the path, or name the dataset to evaluate on"
            " with --data"
        )
    return settings, remark


class TrainedModel:
    """A trained model with its classes and preprocessing, as :func:`load` returns it.

    Args:
        model: a classifier, a detector or a segmentation model of a record.
        record: its classes and its preprocessing.
        source: where it was loaded from; :func:`evaluate` uses the data of the run there.
        stored: the record as it is stored, if the model takes images of another size now.

    Attributes:
        model: the :class:`torch.nn.Module`.
        record: the :class:`kat.models.ModelRecord`.

    Examples:
        >>> import numpy as np
        >>> import kat
        >>> model = kat.load("runs/digits")
        >>> prediction = model.predict(np.zeros((8, 8), dtype=np.uint8), top=2)
        >>> [sorted(entry) for entry in prediction.entries]
        [['class', 'probability'], ['class', 'probability']]
        >>> len(model.predict("photos")), model.features("photos").shape
        (10, torch.Size([10, 64]))
    """

    def __init__(
        self,
        model: nn.Module,
        record: ModelRecord,
        source: str | Path = "the model",
        stored: ModelRecord | None = None,
    ) -> None:
        self.model = model
        self.record = record
        self.source = source
        self.stored = stored or record

    def __repr__(self) -> str:
        size = dimensions(self.record.input_size)
        return f"TrainedModel({self.record.architecture}, {len(self.classes)} classes, {size})"

    def _repr_html_(self) -> str:
        """Return a table of what the model is, for a notebook."""
        facts = {
            "model": self.record.architecture,
            "from": self.source,
            "task": self.task,
            "classes": f"{len(self.classes)}: {listing(self.classes, 10)}",
            "images": dimensions(self.record.input_size),
        }
        if parameters := sum(parameter.numel() for parameter in self.model.parameters()):
            facts["parameters"] = f"{parameters:,}"  # an exported file does not list them
        return table_html(facts.items())

    @property
    def classes(self) -> list[str]:
        """The class names, in the order of the logits."""
        return self.record.classes

    @property
    def task(self) -> str:
        """classification, detection or segmentation."""
        return task_of(self.model)

    @property
    def image_size(self) -> int | None:
        """The side of the images if it is not the stored one, else None."""
        return None if self.record is self.stored else self.record.input_size[1]

    @property
    def subject(self) -> Subject:
        """The model as tasks take it."""
        return Subject(self.model, self.record, self.source)

    def predict(
        self,
        images: Picture | Iterable[Picture],
        *,
        draw: bool = False,
        exif: Exif = "upright",
        **options: Any,
    ) -> Any:
        """Predict what is in images: classes, objects, or the class of each pixel.

        Args:
            images: one image, or many. An image is a path, a PIL image, an array (H, W) or
                (H, W, C) or a tensor (H, W) or (C, H, W) of uint8. Many are a list of images, a
                folder, whose subfolders count, or a batch with one dimension more.
            draw: also return the image in ``pictures`` of the prediction, with objects or classes
                of pixels drawn over it.
            exif: ``"upright"`` rotates photographs by their EXIF orientation, ``"ignore"`` uses the
                pixels as they are stored.
            options: of the task, as ``kat predict --help`` lists them: ``top`` and ``batch_size``
                of a classifier, ``threshold`` of a detector, ``window``, ``scales``, ``flip`` and
                others of a segmentation model.

        Returns:
            A :class:`kat.training.Prediction` for one image, a list of them for many. If one of
            many images cannot be read, its prediction has no entries, and ``error`` says why.

        Raises:
            InputError: the only image cannot be read, or an object is not an image; an option is
                out of range or has no effect on the task.
        """
        many, listed = _listed(images)
        found = list(self.predict_each(listed, draw=draw, exif=exif, **options))
        if many:
            return found
        if found[0].error:
            raise InputError(f"{found[0].image} {found[0].error}")
        return found[0]

    def predict_each(
        self,
        images: Iterable[Picture],
        *,
        draw: bool = False,
        exif: Exif = "upright",
        **options: Any,
    ) -> Iterator[Prediction]:
        """Return an iterator over the predictions for many images, few of them in memory at once.

        It takes the arguments of :meth:`predict`, but folders are not searched.
        """
        if not self.classes:
            raise InputError(f"the model of {self.source} has no head, hence no classes to predict")
        own = task_options(self.task, "predict_images", options)
        waiting: deque[Prediction] = deque()
        self.model.eval()

        def readable() -> Iterator[Image.Image]:
            for index, image in enumerate(images):
                waiting.append(Prediction([], image=_name(image, index)))
                try:
                    opened = self._opened(image, index, exif)
                except UnreadableImage as error:
                    waiting[-1].error = f"cannot be read: {error.reason}"
                else:
                    if draw:
                        waiting[-1].pictures[""] = opened
                    yield opened

        def predictions() -> Iterator[Prediction]:
            for found in TASK_CLASSES[self.task].predict_images(
                self.subject, readable(), own, draw
            ):
                while waiting[0].error:
                    yield waiting.popleft()
                known = waiting.popleft()
                yield replace(found, image=known.image, pictures=known.pictures | found.pictures)
            yield from waiting

        return predictions()

    @torch.no_grad()
    def features(
        self, images: Picture | Iterable[Picture], *, exif: Exif = "upright", batch_size: int = 32
    ) -> Tensor:
        """Return the features (N, D) of images, float32 on the CPU: the inputs of the last layer.

        They are timm's pooled features, ``forward_head(forward_features(x), pre_logits=True)``.

        Args:
            images, exif: as of :meth:`predict`; one image is N = 1.
            batch_size: images at a time.

        Raises:
            InputError: an image cannot be read, or there is none; or the model is no
                classifier with weights.
        """
        model: Any = self.model.eval()
        if not hasattr(model, "forward_head"):
            raise InputError(
                f"{self.source} has no features of whole images: classifiers have, but neither"
                " exported files nor models for detection or segmentation, whose maps are in"
                " kat.deploy.FeatureMaps"
            )
        transform, listed, found = eval_transform(self.record), _listed(images)[1], []
        if not listed:
            raise InputError("there is no image whose features could be returned")
        for start in range(0, len(listed), batch_size):
            batch = enumerate(listed[start : start + batch_size], start)
            inputs = [transform(self._opened(image, index, exif)) for index, image in batch]
            x = torch.stack(inputs).to(self.subject.device)
            found.append(model.forward_head(model.forward_features(x), pre_logits=True))
        return torch.cat(found).float().cpu()

    def _opened(self, image: Picture, index: int, exif: Exif) -> Image.Image:
        """Open an image, with the channels that the model takes."""
        name = _name(image, index)
        if isinstance(image, str | Path):
            opened = decode(name, exif)
        else:
            shown = image if isinstance(image, Image.Image) else _as_pil(image, name)
            opened = rgb_of(shown, name, exif)
        return in_channels(opened, self.record.input_size[0])


def _name(image: Picture, index: int) -> str:
    return str(image) if isinstance(image, str | Path) else f"image {index}"


def _as_pil(image: np.ndarray | Tensor, name: str) -> Image.Image:
    """Convert an array (H, W) or (H, W, C), or a tensor (H, W) or (C, H, W)."""
    pixels = np.asarray(image.cpu() if isinstance(image, Tensor) else image)
    if isinstance(image, Tensor) and pixels.ndim == 3:
        pixels = np.moveaxis(pixels, 0, -1)
    if pixels.shape[2:] == (1,):
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or pixels.shape[2:] not in ((), (3,), (4,)) or pixels.ndim < 2:
        raise InputError(
            f"{name} must be a path, a PIL image, an array (H, W) or (H, W, C) or a tensor (H, W)"
            " or (C, H, W) of uint8, from 0 to 255 and with 1, 3 or 4 channels, got"
            f" {type(image).__name__} of {pixels.dtype} and shape {np.shape(image)}"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _listed(images: Any) -> tuple[bool, list[Any]]:
    """Return True for many images, and a list of all, with those in folders."""
    if isinstance(images, str | Path):
        return Path(images).is_dir(), image_files([images])
    is_batch = isinstance(images, np.ndarray | Tensor) and images.ndim == 4
    if is_batch or (isinstance(images, Iterable) and not isinstance(images, _IN_MEMORY)):
        return True, image_files(list(images))
    return False, [images]
