"""The content of a run's page, gathered from the run directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import nn

from kat.analysis.cost.flops import Cost, count
from kat.analysis.figures.attention import draw_attention, true_classes, with_predictions
from kat.analysis.inspect.activations import Activation, learned_activations
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.analysis.inspect.dense import DenseFindings, dense_findings
from kat.analysis.inspect.images import ValidationImages, images_of_run, normalized
from kat.analysis.inspect.mistakes import ClassFindings, class_findings
from kat.analysis.inspect.stability import rational_rows
from kat.analysis.learning_curves import History
from kat.data import Batch, DeviceTransform
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.models.dense import task_of
from kat.nn import LayerHistory, rationals, read_coefficient_history
from kat.nn.monitoring.stability import Row, read_rows
from kat.training import read_divergence, read_history, read_settings
from kat.training.evaluation.evaluation import Subject
from kat.training.run_directory import COEFFICIENTS, STABILITY, SUMMARY, read_summary
from kat.training.sweep.settings import kept_settings

_WITH_ATTENTION = 3
"""Images whose attention is drawn."""


@dataclass
class RunFindings:
    """What is known of a run; missing parts are empty or None.

    Args:
        name: the name of the run.
        record: the record of its model.
        cost: the cost of its model.
        data: name of its dataset.
        settings: nested, those that differ from the default.
        summary: the content of summary.json, if the run is done.
        history: one row per epoch.
        activations: the activations of each rational layer.
        seen: a sentence about the images behind the histograms of the activations.
        coefficients: the coefficients of each rational layer over the training.
        stability: rows of rational layers.
        failure: what stopped the run, if anything did.
        attention: the figure of a few images, or why there is none.
        predictions: those for the images that the model is shown, why they cannot be made, or empty
            where it is shown none.
    """

    name: str
    record: ModelRecord
    cost: Cost
    data: str
    settings: Mapping[str, Any]
    summary: Mapping[str, Any] | None = None
    history: History = ()
    activations: Sequence[Activation] = ()
    seen: str = ""
    coefficients: Mapping[str, LayerHistory] = field(default_factory=dict)
    stability: Sequence[Row] = ()
    failure: str | None = None
    attention: Figure | str = ""
    predictions: ClassFindings | DenseFindings | str = ""


def read_findings(folder: Path, images: int, data: str | None = None) -> RunFindings:
    """Gathers what is known of a run.

    Args:
        folder: the run directory.
        images: the number of validation images that the model is shown.
        data: the dataset that they come from; None: the run's own.

    Raises:
        InputError: it is no run, or ``data`` cannot be used.
    """
    settings = read_settings(folder)
    model, record = load_model(folder)
    findings = RunFindings(
        name=str(folder),
        record=record,
        cost=count(model, record.input_size),
        data=settings["data"]["name"],
        settings=kept_settings(folder),
        summary=read_summary(folder) if (folder / SUMMARY).is_file() else None,
        history=read_history(folder),
        failure=read_divergence(folder),
    )
    shown = _show(folder, model, record, images, data)
    if rationals(model):
        findings.seen = shown.sentence
        if (folder / COEFFICIENTS).is_file():
            findings.coefficients = read_coefficient_history(folder / COEFFICIENTS)
        inputs = normalized(shown.batches, record) if shown.batches else None
        findings.activations = learned_activations(model, inputs, history=findings.coefficients)
        if (folder / STABILITY).is_file() and (rows := read_rows(folder / STABILITY)):
            findings.stability = rational_rows(rows)
    try:
        findings.predictions = _predictions(Subject(model, record, folder), shown)
    except InputError as error:
        if data is not None:
            raise
        findings.predictions = str(error)
    findings.attention = _attention(model, record, shown)
    return findings


@dataclass(frozen=True)
class _Shown:
    """The validation images that the model is shown, and a sentence about them."""

    sentence: str
    images: ValidationImages | None = None
    batches: Sequence[Batch] = ()


def _show(
    folder: Path, model: nn.Module, record: ModelRecord, count: int, data: str | None
) -> _Shown:
    if not count:
        return _Shown("The model was shown no images: none were asked for.")
    try:
        images = images_of_run(folder, model, record, count, data)
        batches = list(images.batches())
    except InputError as error:
        if data is not None:
            raise
        return _Shown(f"The model was shown no images: {error}.")
    number = sum(len(batch.labels) for batch in batches)
    sentence = (
        f"Gray is the density of the inputs over {number} validation images, of all groups"
        " together."
    )
    return _Shown(sentence, images, batches)


def _predictions(subject: Subject, shown: _Shown) -> ClassFindings | DenseFindings | str:
    """The predictions for the images, if there are any.

    Raises:
        InputError: the classes of the data are not those of the model.
    """
    if shown.images is None:
        return ""
    if task_of(subject.model) != "classification":
        return dense_findings(subject, shown.images)
    classes = shown.images.images.classes
    return class_findings(subject.model, subject.record, shown.batches, classes)


def _attention(model: nn.Module, record: ModelRecord, shown: _Shown) -> Figure | str:
    """The attention on the first images as a figure, or why there is none."""
    try:
        check_attention(model)
    except InputError as error:
        return str(error)
    if shown.images is None:
        return f"{shown.sentence} 'kat plot attention' takes image files."
    pictures, titles = true_classes(shown.batches[:1], shown.images.images.classes)
    pictures, titles = pictures[:_WITH_ATTENTION], titles[:_WITH_ATTENTION]
    maps = attention_maps(model, DeviceTransform(record.mean, record.std)(pictures))
    return draw_attention(pictures, with_predictions(titles, maps.logits, record.classes), maps)
