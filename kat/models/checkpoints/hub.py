"""Models on the Hugging Face Hub, and in folders of its format: timm's, with a model card.

After ``import kat``, these load with :func:`from_pretrained`, with
``timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`` (``local-dir:FOLDER`` for a folder), and
with transformers' ``AutoModelForImageClassification.from_pretrained``.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import huggingface_hub
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
)
from torch import nn

from kat.errors import InputError, first_line
from kat.files import write_text
from kat.models.checkpoints.model_card import TrainingRecord, model_card
from kat.models.checkpoints.model_record import ModelRecord, build_model
from kat.models.checkpoints.state_dict import load_weights
from kat.models.checkpoints.storage import load_model, save_model
from kat.models.checkpoints.weight_files import CONFIG, WEIGHTS
from kat.models.dense import task_of

CARD = "README.md"


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
    _check_model_folder(folder)
    _check_record(model, record)
    card = model_card(
        record,
        sum(parameter.numel() for parameter in model.parameters()),
        training or TrainingRecord(),
        name=name or folder.resolve().name,
        license=license,
        task=task_of(model),
    )
    try:
        save_model(model, record, folder)
        write_text(folder / CARD, card)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from None


def _check_record(model: nn.Module, record: ModelRecord) -> None:
    """Checks that what is saved can be loaded again.

    Raises:
        InputError: the record describes a model with other weights.
    """
    try:
        load_weights(build_model(record), model.state_dict(), source="the model")
    except InputError as error:
        raise InputError(
            f"the record {record.architecture} does not describe the model ({error}): a kanified or"
            " adapted one is kept by the state dict and the save(...) of its plan or adapters, one"
            " with other arguments by a record with these args"
        ) from None


def _check_model_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder")
    names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name not in (WEIGHTS, CONFIG, CARD)]
    if others:
        raise InputError(
            f"{folder} is not a model's folder: {others[0]!r} is in it; give a new folder"
        )


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
        InputError: the model does not exist, is unavailable, or is damaged.

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
    try:
        folder = huggingface_hub.snapshot_download(
            source, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG]
        )
    except HFValidationError:
        raise InputError(f"{source!r} is neither a folder nor OWNER/NAME on the Hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(f"{source!r} is unavailable on the Hub: {first_line(error)}") from None
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
        InputError: the Hub refuses the upload, or is unreachable.

    Examples:
        >>> from pathlib import Path
        >>> from kat.models import load_model, push_to_hub
        >>> model, record = load_model(Path("runs/digits"))
        >>> push_to_hub(model, record, "not/a/name")  # "OWNER/NAME" would be created on the Hub
        Traceback (most recent call last):
            ...
        kat.errors.InputError: 'not/a/name' cannot be uploaded to the Hub: ...
    """
    api = huggingface_hub.HfApi(token=token, library_name="kat")
    try:
        repository = api.create_repo(repository, private=private, exist_ok=True).repo_id
        has_card = api.file_exists(repository, CARD, revision=revision)
        with TemporaryDirectory() as folder:
            name = repository.split("/")[-1]
            save_pretrained(
                model, record, Path(folder), training=training, license=license, name=name
            )
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                ignore_patterns=[CARD] if has_card else None,
                revision=revision,
                create_pr=create_pr,
                commit_message=message,
            )
    except (HfHubHTTPError, HFValidationError, LocalTokenNotFoundError, OSError) as error:
        raise InputError(
            f"{repository!r} cannot be uploaded to the Hub: {first_line(error)}"
        ) from None
    return str(commit.commit_url)
