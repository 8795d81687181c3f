"""Models on the Hugging Face Hub, and in folders of its format: timm's, with a model card.

What is written here loads, after ``import kat``, with :func:`from_pretrained`, with
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

from kat.errors import InputError
from kat.files import write_text
from kat.models.checkpoints.card import TrainingRecord, model_card
from kat.models.checkpoints.record import ModelRecord
from kat.models.checkpoints.storage import CONFIG, WEIGHTS, load_model, save_model

CARD = "README.md"
CONTENTS = (WEIGHTS, CONFIG, CARD)


def save_pretrained(
    model: nn.Module,
    record: ModelRecord,
    folder: Path,
    *,
    training: TrainingRecord | None = None,
    license: str | None = None,
    name: str | None = None,
) -> None:
    """Writes model.safetensors, config.json and README.md, the model card.

    Args:
        model: any registered model, such as :func:`kat.models.load_model` returns.
        record: its description.
        folder: made if it is missing; files of these names are replaced.
        training: for the card.
        license: of the weights, for the card.
        name: for the card; by default that of the folder.

    Raises:
        InputError: the folder holds something else, or cannot be written.
    """
    check_model_folder(folder)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    card = model_card(
        record,
        parameters,
        training or TrainingRecord(),
        name=name or folder.resolve().name,
        license=license,
    )
    try:
        save_model(model, record, folder)
        write_text(folder / CARD, card)
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}") from None


def check_model_folder(folder: Path) -> None:
    """Checks that a model's folder can be written there, and nothing else is there.

    Raises:
        InputError: ``folder`` is a file, or holds other files than a model's.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file; give the name of a folder")
    others = sorted(path.name for path in folder.iterdir() if path.name not in CONTENTS)
    if others:
        raise InputError(
            f"{folder} is not a model's folder: {others[0]!r} is in it; give a new folder"
        )


def from_pretrained(
    source: str, *, revision: str | None = None, token: str | None = None
) -> tuple[nn.Module, ModelRecord]:
    """A model of the Hub or of a folder, ready to evaluate, and its record.

    Args:
        source: ``"OWNER/NAME"`` on the Hub, downloaded into the Hub's usual cache, or the path of a
            folder, which goes first.
        revision: branch, tag or commit.
        token: of a Hub account, for private repositories.

    Raises:
        InputError: no such model, it cannot be had, or it is damaged.
    """
    if Path(source).exists():
        return load_model(Path(source))
    try:
        folder = huggingface_hub.snapshot_download(
            source, revision=revision, token=token, allow_patterns=[WEIGHTS, CONFIG]
        )
    except HFValidationError:
        raise InputError(f"{source!r} is neither a folder nor OWNER/NAME of the Hub") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{source!r} cannot be had from the Hub: {reason}") from None
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
    """Uploads what :func:`save_pretrained` writes, in one commit; a card that is there stays.

    Args:
        model, record, training, license: as there.
        repository: ``"OWNER/NAME"``, or a name in your own account; made if it is missing.
        private: whether a repository that is made is private.
        revision: the branch to commit to.
        create_pr: open a pull request instead of committing.
        message: of the commit.
        token: of a Hub account that may write; by default the one that ``hf auth login`` keeps.

    Returns:
        The address of the commit.

    Raises:
        InputError: the Hub refuses, or cannot be reached.
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
        reason = str(error).splitlines()[0]
        raise InputError(f"the Hub does not take {repository!r}: {reason}") from None
    return str(commit.commit_url)
