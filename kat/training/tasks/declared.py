"""The declaration of a task: all that is said of it without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

Which = Literal["evaluate", "predict_images"]
"""The methods of a task that take options."""


class Metric(NamedTuple):
    """One metric; higher is better, except for losses and errors of an evaluation.

    Args:
        name: name in logs, the history and files.
        label: name in printed text and figures.
        format: format specification of its value.
        in_table: it is a column of a printed table of checkpoints.
    """

    name: str
    label: str
    format: str = ".2f"
    in_table: bool = True


@dataclass
class NoOptions:
    """The options of a task that has none of its own."""


@dataclass(frozen=True)
class Declared:
    """Description of a task for the command line, the settings and the reports.

    Args:
        name: the task's name in datasets and models, and the name of its folder.
        metrics: the metrics of a validation besides the loss; the first selects the best
            checkpoint.
        eval_metrics: the metrics of an evaluation.
        options: dataclasses of the task's own options, by the method of :class:`Task` that takes
            them.
        settings: settings of a run, and sections of settings, that only some tasks use; this one
            does.
        recipe: the recipe for data of one's own.
        example_models: names of models for the task, for error messages.
        on_cpu: the model that a CPU trains from scratch, and the largest side of its images.
        on_gpu: the same for a GPU.
        patches: sizes of patches to choose from for small images.
        longer_side: the size of images is their longer side.
        on_grid: models keep the patches of an image as a grid of any size.
        entries: the name of the entries of a prediction, e.g. objects.
        entry_figure: the name of the value of an entry, e.g. score.
        ranked: the entries are classes, of which only the first ones need be printed.
        draws: predictions include pictures.
    """

    name: str
    metrics: tuple[Metric, ...]
    eval_metrics: tuple[Metric, ...]
    options: Mapping[Which, type]
    settings: tuple[str, ...]
    recipe: str
    example_models: str
    on_cpu: tuple[str, int]
    on_gpu: tuple[str, int]
    entries: str
    entry_figure: str
    patches: tuple[int, ...] = ()
    longer_side: bool = False
    on_grid: bool = True
    ranked: bool = True
    draws: bool = True
