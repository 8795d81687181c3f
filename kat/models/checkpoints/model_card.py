"""The model card: what the weights are, how they were trained, and what was measured."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


@dataclass(frozen=True)
class TrainingRecord:
    """What is known about the training of a model; either part may be empty.

    Args:
        settings: the settings of the run, as in run.yaml.
        metrics: the weights' metrics, as in summary.json: ``top1`` and ``top5`` in percent on the
            validation split, and ``epochs``.

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
) -> str:
    """The text of README.md: the Hub's metadata, the settings of the training, and the metrics.

    It claims nothing beyond the record. Paths of the training machine are left out.

    Args:
        record: the record of the model.
        parameters: their number.
        training: settings and metrics.
        name: the name of the model.
        license: the license of the weights, an identifier of the Hub such as ``"mit"``.
    """
    settings = _without_paths(training.settings)
    data = settings.get("data", {}).get("name")
    metrics = {} if settings.get("limit_val_batches") else training.metrics  # of a part
    header = _hub_metadata(metrics, data, name, license).to_yaml()
    description = (
        _KAT if record.architecture.startswith(("kat_", "kat2_")) else "`{}`: a timm model."
    )
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

or `kat.models.from_pretrained("OWNER/{name}")`, or, after `import kat`, transformers'
`AutoModelForImageClassification.from_pretrained("OWNER/{name}")`.

## Metrics

{_metrics_text(metrics, data)}

## Training

{_training_text(settings)}

## Citation

```bibtex
{_CITATION}
```
"""


def _hub_metadata(
    metrics: Mapping[str, Any], data: str | None, name: str, license: str | None
) -> ModelCardData:
    results = None
    if data and "top1" in metrics:
        results = [
            EvalResult(
                task_type="image-classification",
                dataset_type=data,
                dataset_name=data,
                dataset_split="validation",
                metric_type="accuracy",
                metric_name="top-1",
                metric_value=metrics["top1"],
            )
        ]
    return ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag="image-classification",
        tags=["image-classification", "timm", "transformers", "kat"],
        model_name=name,
        eval_results=results,
    )


def _metrics_text(metrics: Mapping[str, Any], data: str | None) -> str:
    if "top1" not in metrics or not data:
        return "No metrics of these weights are on record."
    return (
        f"On the validation split of `{data}`: top-1 {metrics['top1']:.2f} %, top-5"
        f" {metrics['top5']:.2f} %.\nThese are the weights of the best of {metrics['epochs']}"
        " epochs by the same top-1, so it is an\noptimistic estimate for new images."
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
