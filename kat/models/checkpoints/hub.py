"""Models on the Hugging Face Hub, and in folders of its format: timm's, with a model card.

``hf upload OWNER/NAME FOLDER``, a command of the Hub's client, uploads such a folder. After
``import kat``, these load with :func:`from_pretrained`, with
``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`` (``local-dir:FOLDER`` for a folder), and
with transformers' ``AutoModelForImageClassification.from_pretrained``.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import yaml
from huggingface_hub import ModelCardData
from torch import nn

from kat.errors import InputError
from kat.files import write_text
from kat.models.checkpoints.model_record import ModelRecord, build_model
from kat.models.checkpoints.storage import load_model, save_model
from kat.models.checkpoints.weight_files import CONFIG, WEIGHTS, load_weights
from kat.models.task import task_of
from kat.text import dimensions
from kat.version import __version__

CARD = "README.md"


@dataclass(frozen=True)
class TrainingRecord:
    """The training of a model, as far as it is known; either part may be empty.

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
    """Write model.safetensors, config.json and README.md, the model card.

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
    name = name or folder.resolve().name
    tag = getattr(model, "pipeline_tag", f"image-{task_of(model)}")
    metadata = ModelCardData(
        license=license,
        library_name="timm",
        pipeline_tag=tag,
        tags=[tag, "timm", "kat"],
        model_name=name,
    )
    text = _card(model, record, training or TrainingRecord(), name)
    write_text(folder / CARD, f"---\n{metadata}\n---{text}")


def from_pretrained(
    source: str, *, revision: str | None = None, token: str | None = None
) -> tuple[nn.Module, ModelRecord]:
    """Load a model, in evaluation mode, and its record from the Hub or from a folder.

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


def _card(model: nn.Module, record: ModelRecord, training: TrainingRecord, name: str) -> str:
    """Return the text of README.md below the Hub's metadata, without local paths."""
    settings = copy.deepcopy(dict(training.settings))
    settings.pop("out", None)
    data, start = settings.get("data", {}), settings.get("model", {})
    data.pop("root", None)
    if data.get("name"):
        data["name"] = str(data["name"]).partition(":")[0]
    for where in ("init_from", "functions_from"):
        if start.get(where):
            start[where] = Path(start[where]).name
    trained = "The training of these weights is not on record."
    if settings or training.metrics:
        metrics = {name: v for name, v in training.metrics.items() if name != "out"}
        known = yaml.safe_dump({"metrics": metrics, "settings": settings})
        trained = (
            "Metrics are of the best epoch on the validation split (in percent), an optimistic"
            f" estimate for new images.\n\n```yaml\n{known}```"
        )
    is_kat = record.architecture.startswith("kat_")
    kind = "a Kolmogorov-Arnold Transformer (arXiv 2409.10594)" if is_kat else "a timm model"
    parameters = sum(parameter.numel() for parameter in model.parameters())
    images = f"""{dimensions(record.input_size)}, mean {list(record.mean)}, std {list(record.std)},
  {record.interpolation} interpolation, central crop of {record.crop_pct:.1%}"""
    return f"""
# {name}

`{record.architecture}`: {kind}, written by `kat` {__version__}.

- Parameters: {parameters:,}
- Input: {images}
- Classes: {len(record.classes)}

```python
import kat, timm  # pip install kolmogorov-arnold-transformer; importing kat registers the models

model = timm.create_model("hf-hub:OWNER/{name}", pretrained=True).eval()
```

## Training

{trained}
"""
