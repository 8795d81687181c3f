"""Models on the Hugging Face Hub, and in folders of its format: timm's, with a model card.

After ``import kat``, these load with :func:`from_pretrained`, with
``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`` (``local-dir:FOLDER`` for a folder), and
with transformers' ``AutoModelForImageClassification.from_pretrained``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import ModelCardData
from torch import nn

from kat.errors import InputError
from kat.files import write_text
from kat.models.checkpoints.model_record import ModelRecord, build_model
from kat.models.checkpoints.state_dict import load_weights
from kat.models.checkpoints.storage import load_model, save_model
from kat.models.checkpoints.weight_files import CONFIG, WEIGHTS
from kat.models.dense import task_of
from kat.version import __version__

CARD = "README.md"

_TASKS = {
    "classification": ("image-classification", {"top1": "top-1", "top5": "top-5"}),
    "detection": ("object-detection", {"box_ap": "box AP", "mask_ap": "mask AP"}),
    "segmentation": ("image-segmentation", {"miou": "mIoU"}),
}
"""The tasks in the Hub's words, and the labels of their metrics by the names in summary.json; the
first metric has chosen the epoch."""


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


def save_pretrained(
    model: nn.Module,
    record: ModelRecord,
    folder: str | Path,
    *,
    training: TrainingRecord | None = None,
    license: str | None = None,
    name: str | None = None,
) -> None:
    """Writes model.safetensors, config.json and README.md, the model card.

    Args:
        model: any registered model, such as :func:`kat.models.load_model` returns.
        record: the record of the model.
        folder: created if it does not exist; files of these names are replaced.
        training: for the card.
        license: the license of the weights, for the card.
        name: for the card; by default the folder's.

    Raises:
        InputError: the folder holds other files, or cannot be written; or the model is not the one
            that the record describes, as after :func:`kat.kanify` or :func:`kat.adapt`.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import load_model, save_pretrained
        >>> save_pretrained(*load_model(Path("runs/digits")), Path("model"), license="mit")
        >>> sorted(path.name for path in Path("model").iterdir())
        ['README.md', 'config.json', 'model.safetensors']
    """
    folder = Path(folder)
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if others := names - {WEIGHTS, CONFIG, CARD}:
        raise InputError(f"{folder} is not a model's folder: {min(others)!r} is in it")
    # A kanified or adapted model is kept by its state dict and the save(...) of its plan.
    source = f"the model, which is not the one of its record {record.architecture},"
    load_weights(build_model(record), model.state_dict(), source=source)
    save_model(model, record, folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = _card(
        record,
        f"{parameters:,}",
        training or TrainingRecord(),
        name or folder.resolve().name,
        license,
        task_of(model),
    )
    write_text(folder / CARD, card)


def from_pretrained(
    source: str, *, revision: str | None = None, token: str | None = None
) -> tuple[nn.Module, ModelRecord]:
    """Loads a model, in evaluation mode, and its record from the Hub or from a folder.

    Args:
        source: the path of a folder, or ``"OWNER/NAME"`` on the Hub, which is downloaded into the
            Hub's cache. A folder of that name comes first.
        revision: branch, tag or commit.
        token: the token of a Hub account, for private repositories.

    Raises:
        InputError: the folder holds no model, or a damaged one.
        OSError, HFValidationError: what the Hub's client says: there is no such model, no network.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import from_pretrained, load_model, save_pretrained
        >>> save_pretrained(*load_model(Path("runs/digits")), Path("model"))
        >>> model, record = from_pretrained("model")
        >>> record.architecture
        'kat_micro_patch2_8'
    """
    if Path(source).exists():
        return load_model(Path(source))
    folder = huggingface_hub.snapshot_download(
        source, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG]
    )
    return load_model(Path(folder))


def push_to_hub(
    model: nn.Module,
    record: ModelRecord,
    repository: str,
    *,
    training: TrainingRecord | None = None,
    license: str | None = None,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    message: str = "Add model",
    token: str | None = None,
) -> str:
    """Uploads the output of :func:`save_pretrained` in one commit. An existing card is kept.

    Args:
        model, record, training, license: see :func:`save_pretrained`.
        repository: ``"OWNER/NAME"``, or a name in your own account; created if it does not exist.
        private: whether a repository that is created is private.
        revision: the branch to commit to.
        create_pr: open a pull request instead of committing.
        message: the message of the commit.
        token: a Hub account's token with write access; None: the one ``hf auth login`` stored.

    Returns:
        The URL of the commit.

    Raises:
        OSError, HFValidationError: what the Hub's client says: no token, no network.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import load_model, push_to_hub
        >>> model, record = load_model(Path("runs/digits"))
        >>> push_to_hub(model, record, "not/a/name")  # "OWNER/NAME" would be created on the Hub
        Traceback (most recent call last):
            ...
        huggingface_hub.errors.HFValidationError: Repo id must be in the form ...
    """
    api = huggingface_hub.HfApi(token=token, library_name="kat")
    repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
    has_card = api.file_exists(repository, CARD, revision=revision)
    with TemporaryDirectory() as folder:
        name = repository.split("/")[-1]
        save_pretrained(model, record, folder, training=training, license=license, name=name)
        commit = api.upload_folder(
            repo_id=repository,
            folder_path=folder,
            ignore_patterns=[CARD] if has_card else None,
            revision=revision,
            create_pr=create_pr,
            commit_message=message,
        )
    return str(commit.commit_url)


def _card(
    record: ModelRecord,
    parameters: str,
    training: TrainingRecord,
    name: str,
    license: str | None,
    task: str,
) -> str:
    """The text of README.md: the Hub's metadata, the settings of the training, and the metrics.

    It claims nothing beyond the record. Paths of the training machine are left out.
    """
    hub_task, labels = _TASKS[task]
    settings = _without_paths(training.settings)
    data = settings.get("data", {}).get("name")
    metrics = {} if settings.get("limit_val_batches") else training.metrics  # of a part
    known = {name: value for name, value in metrics.items() if value is not None}
    values = [(label, known[name]) for name, label in labels.items() if name in known]
    header = ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag=hub_task,
        tags=[hub_task, "timm", "kat"],
        model_name=name,
    )
    measured = "No metrics of these weights are on record."
    if data and values:
        measured = (
            f"On the validation split of `{data}`:"
            f" {', '.join(f'{label} {value:.2f} %' for label, value in values)}.\nThese are the"
            f" weights of the best of {metrics['epochs']} epochs by {values[0][0]}, so it is an"
            " optimistic estimate for new images."
        )
    trained = "The training of these weights is not on record."
    if settings:
        text = yaml.safe_dump(settings, sort_keys=True)
        trained = f"With `kat train --config run.yaml`, where run.yaml is\n\n```yaml\n{text}```"
    is_kat = record.architecture.startswith("kat_")
    kind = "a Kolmogorov-Arnold Transformer (arXiv 2409.10594)" if is_kat else "a timm model"
    size = " x ".join(map(str, record.input_size))
    return f"""---
{header}
---
# {name}

`{record.architecture}`: {kind}, written by `kat` {__version__}.

- Parameters: {parameters}
- Input: {size} (channels, height, width), mean {list(record.mean)}, std {list(record.std)},
  {record.interpolation} interpolation, central crop of {record.crop_pct:.1%}
- Classes: {len(record.classes)}

```python
import kat, timm  # pip install kolmogorov-arnold-transformer; importing kat registers the models

model = timm.create_model("hf-hub:OWNER/{name}", pretrained=True).eval()
```

## Metrics

{measured}

## Training

{trained}
"""


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
