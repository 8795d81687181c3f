"""The model card: what the weights are, how they were trained, and what was measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub import EvalResult, ModelCardData

from kat.models.checkpoints.model_record import ModelRecord
from kat.version import __version__

_CITATION = """\
@inproceedings{yang2025kat,
  title     = {Kolmogorov-Arnold Transformer},
  author    = {Xingyi Yang and Xinchao Wang},
  booktitle = {International Conference on Learning Representations},
  year      = {2025},
  url       = {https://arxiv.org/abs/2409.10594}
}"""

_KAT = """\
`{}`: a Kolmogorov-Arnold Transformer, a Vision Transformer whose MLPs are Group-Rational KAN
layers, which learn their activation functions
([arXiv 2409.10594](https://arxiv.org/abs/2409.10594))."""


class _Task(NamedTuple):
    """A task, in the Hub's words.

    Args:
        name: of the task.
        metrics: the labels of those that the card has, by their names in summary.json; the first
            has chosen the epoch.
        metric_type: of the first.
    """

    name: str
    metrics: Mapping[str, str]
    metric_type: str


_TASKS = {
    "classification": _Task("image-classification", {"top1": "top-1", "top5": "top-5"}, "accuracy"),
    "detection": _Task("object-detection", {"box_ap": "box AP", "mask_ap": "mask AP"}, "box_ap"),
    "segmentation": _Task("image-segmentation", {"miou": "mIoU"}, "mean_iou"),
}
_IN_TRANSFORMERS = """, or, after `import kat`, transformers'
`AutoModelForImageClassification.from_pretrained("OWNER/{}")`"""


@dataclass(frozen=True)
class TrainingRecord:
    """What is known about the training of a model; either part may be empty.

    Args:
        settings: the settings of the run, as in run.yaml.
        metrics: the weights' metrics, as in summary.json: ``top1`` and ``top5``, ``box_ap`` and
            ``mask_ap``, or ``miou``, in percent on the validation split, and ``epochs``.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import TrainingRecord, load_model, save_pretrained
        >>> from kat.training import read_settings
        >>> training = TrainingRecord(settings=read_settings(Path("runs/digits")))
        >>> save_pretrained(*load_model(Path("runs/digits")), Path("model"), training=training)
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)


def model_card(
    record: ModelRecord,
    parameters: int,
    training: TrainingRecord,
    *,
    name: str,
    license: str | None = None,
    task: str = "classification",
) -> str:
    """The text of README.md: the Hub's metadata, the settings of the training, and the metrics.

    It claims nothing beyond the record. Paths of the training machine are left out.

    Args:
        record: the record of the model.
        parameters: their number.
        training: settings and metrics.
        name: the name of the model.
        license: the license of the weights, an identifier of the Hub such as ``"mit"``.
        task: of the model, see :func:`kat.models.dense.task_of`.
    """
    kind = _TASKS[task]
    settings = _without_paths(training.settings)
    data = settings.get("data", {}).get("name")
    metrics = {} if settings.get("limit_val_batches") else training.metrics  # of a part
    header = _hub_metadata(kind, metrics, data, name, license).to_yaml()
    description = _KAT if record.architecture.startswith("kat_") else "`{}`: a timm model."
    others = _IN_TRANSFORMERS.format(name) if task == "classification" else ""
    size = " x ".join(str(side) for side in record.input_size)
    return f"""---
{header}
---
# {name}

{description.format(record.architecture)}
Written by `kat` {__version__}.

- Parameters: {parameters:,}
- Input: {size} (channels, height, width), mean {list(record.mean)}, std {list(record.std)},
  {record.interpolation} interpolation, central crop of {record.crop_pct:.1%}
- Classes: {len(record.classes)}

## Use

```python
import kat, timm  # pip install kolmogorov-arnold-transformer; importing kat registers the models

model = timm.create_model("hf-hub:OWNER/{name}", pretrained=True).eval()
```

or `kat.models.from_pretrained("OWNER/{name}")`{others}.

## Metrics

{_metrics_text(kind, metrics, data)}

## Training

{_training_text(settings)}

## Citation

```bibtex
{_CITATION}
```
"""


def _hub_metadata(
    task: _Task, metrics: Mapping[str, Any], data: str | None, name: str, license: str | None
) -> ModelCardData:
    results, (main, *_) = None, task.metrics
    if data and metrics.get(main) is not None:
        results = [
            EvalResult(
                task_type=task.name,
                dataset_type=data,
                dataset_name=data,
                dataset_split="validation",
                metric_type=task.metric_type,
                metric_name=task.metrics[main],
                metric_value=metrics[main],
            )
        ]
    return ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag=task.name,
        tags=[
            task.name,
            "timm",
            *(["transformers"] if task is _TASKS["classification"] else []),
            "kat",
        ],
        model_name=name,
        eval_results=results,
    )


def _metrics_text(task: _Task, metrics: Mapping[str, Any], data: str | None) -> str:
    main, *_ = task.metrics
    metrics = {name: value for name, value in metrics.items() if value is not None}  # NaN in JSON
    if main not in metrics or not data:
        return "No metrics of these weights are on record."
    values = ", ".join(
        f"{label} {metrics[name]:.2f} %" for name, label in task.metrics.items() if name in metrics
    )
    return (
        f"On the validation split of `{data}`: {values}.\nThese are the weights of the best of"
        f" {metrics['epochs']} epochs by the same {task.metrics[main]}, so it is an\noptimistic"
        " estimate for new images."
    )


def _training_text(settings: Mapping[str, Any]) -> str:
    if not settings:
        return "The training of these weights is not on record."
    text = yaml.safe_dump(dict(settings), sort_keys=True).rstrip()
    return f"With `kat train --config run.yaml`, where run.yaml is\n\n```yaml\n{text}\n```"


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, without the paths of the machine that trained."""
    kept = copy.deepcopy(dict(settings))
    kept.pop("out", None)
    data, model = kept.get("data", {}), kept.get("model", {})
    data.pop("root", None)
    if data.get("name"):
        data["name"] = str(data["name"]).partition(":")[0]
    if model.get("init_from"):
        model["init_from"] = Path(model["init_from"]).name
    return kept
