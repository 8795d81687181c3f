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
from kat.analysis.inspect.activations import Activation, learned_activations, spread
from kat.analysis.inspect.attention import attention_maps, check_attention
from kat.analysis.inspect.predictions import (
    ClassFindings,
    DenseFindings,
    class_findings,
    dense_findings,
    images_of_run,
    normalized,
)
from kat.analysis.inspect.stability import rational_rows
from kat.analysis.runs import History
from kat.data import Batch, DeviceTransform
from kat.errors import InputError
from kat.models import ModelRecord, load_model
from kat.models.dense import task_of
from kat.nn import LayerHistory, rationals, read_coefficient_history
from kat.nn.stability import Row, read_rows
from kat.training import read_divergence, read_history, read_settings
from kat.training.record.run_directory import COEFFICIENTS, STABILITY, SUMMARY, read_summary
from kat.training.sweep.plan import settings_of
from kat.training.tasks.evaluation import Subject
from kat.training.tasks.registry import TASKS

_WITH_ATTENTION = 3
"""Images whose attention is drawn."""


@dataclass
class RunFindings:
    """Known facts of a run; missing parts are empty or None.

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
        attention: the figure of a few images; None without images or attention.
        predictions: those for the images that the model is shown, or why there are none.
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
    attention: Figure | None = None
    predictions: ClassFindings | DenseFindings | str = ""


def read_findings(folder: Path, count_images: int, data: str | None = None) -> RunFindings:
    """Gather what is known of a run.

    Args:
        folder: the run directory.
        count_images: the number of validation images that the model is shown.
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
        settings=settings_of(settings),
        summary=read_summary(folder) if (folder / SUMMARY).is_file() else None,
        history=read_history(folder),
        failure=read_divergence(folder),
    )
    batches: list[Batch] = []
    try:
        if count_images:
            images = images_of_run(folder, model, record, count_images, data)
            batches = list(images.batches())
            shown = sum(len(batch.labels) for batch in batches)
            findings.seen = f"Gray is the density of the inputs over {shown} validation images."
            if TASKS[task_of(model)].draws:
                findings.predictions = dense_findings(Subject(model, record, folder), images)
            else:
                classes = images.images.classes
                findings.attention = _attention(model, record, batches, classes)
                findings.predictions = class_findings(model, record, batches, classes)
    except InputError as error:  # the data is not there, or has other classes than the model
        if data is not None:
            raise
        findings.predictions = f"There are no predictions: {error}."
    if rationals(model):
        if (folder / COEFFICIENTS).is_file():
            findings.coefficients = read_coefficient_history(folder / COEFFICIENTS)
        inputs = normalized(batches, record) if batches else None
        findings.activations = learned_activations(model, inputs, history=findings.coefficients)
        if (folder / STABILITY).is_file():
            findings.stability = rational_rows(read_rows(folder / STABILITY))
    return findings


def _attention(
    model: nn.Module, record: ModelRecord, batches: Sequence[Batch], classes: Sequence[str]
) -> Figure | None:
    """Draw the attention over a few of the images; None if the model has none to draw."""
    try:
        transformer = check_attention(model)
    except InputError:
        return None
    pictures, titles = true_classes(batches, classes)
    places = spread(len(titles), _WITH_ATTENTION)
    pictures, titles = pictures[places], [titles[place] for place in places]
    maps = attention_maps(transformer, DeviceTransform(record.mean, record.std)(pictures))
    titles = with_predictions(titles, maps.logits, record.classes)
    return draw_attention(pictures, titles, maps)
