"""Loading models of transformers with the rationals and adapters that they were saved with."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kat.errors import InputError
from kat.models.adapt import adapters
from kat.models.adapt.api import adapt_like
from kat.models.config_record import ENTRY, Record, root_of, write
from kat.models.kanify.api import kanify_like
from kat.models.kanify.plan import VERSION
from kat.text import listing


def load_pretrained(kind: Any, source: str | Path, **options: Any) -> Any:
    """Load a model of transformers that was saved after :func:`kat.kanify` or :func:`kat.adapt`.

    It builds the model, makes the changes that its configuration records, and loads the weights by
    transformers' own ``from_pretrained``.

    Args:
        kind: the class of the model, or an Auto class.
        source: the folder that ``save_pretrained`` wrote, or a name on the Hugging Face Hub.
        options: of ``from_pretrained``, such as ``dtype``, ``device_map`` or ``revision``.

    Returns:
        What ``kind.from_pretrained`` returns. Parameters that adapters had frozen are frozen.

    Raises:
        InputError: the configuration has no record, or one of another version of kat or of another
            model; or the weights lack the rationals or adapters.

    Examples:
        >>> import kat
        >>> from transformers import AutoModel, LlamaConfig, LlamaModel
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        >>> model = LlamaModel(LlamaConfig(num_hidden_layers=1, vocab_size=50, **size))
        >>> plan = kat.kanify(model)
        >>> model.save_pretrained("folder")
        >>> again = kat.models.load_pretrained(AutoModel, "folder")
        >>> type(again).__name__, type(again.layers[0].mlp.act_fn).__name__
        ('LlamaModel', 'GroupRational')
    """
    transformers: Any = import_module("transformers")
    stored, _ = transformers.PretrainedConfig.get_config_dict(source, **options)
    records: Any = stored.get(ENTRY)
    if not records:
        raise InputError(
            f"{source} has no record of kat.kanify or kat.adapt: load it by from_pretrained of the"
            " class that it was saved from. If they were given a part of the model, which has no"
            " configuration, change the whole with only=..., and save it again"
        )
    for record in records:
        if record.get("kanify") != VERSION and record.get(adapters.KEY) != adapters.VERSION:
            raise InputError(f"{source} was saved by another version of kat: load it with that one")
    if not issubclass(kind, transformers.PreTrainedModel):
        config = transformers.AutoConfig.from_pretrained(source, **options)
        kind = _class_of(kind, config, options)
    changed = _changed(kind, records)
    model, info = changed.from_pretrained(source, **{**options, "output_loading_info": True})
    model.__class__ = kind
    lacking = changed.added & {*info["missing_keys"]}
    if lacking:
        raise InputError(
            f"{source} has a record of kat, but its weights lack {listing(sorted(lacking))}:"
            f" {kind.__name__}.from_pretrained had loaded the model without them, or it was built"
            " from the configuration of a changed model"
        )
    trained = {model.get_parameter(name) for name, trains in changed.trained.items() if trains}
    for name, trains in changed.trained.items():
        if not trains:
            parameter = model.get_parameter(name)
            parameter.requires_grad_(parameter in trained)  # as the other name of a tied head
    return (model, info) if options.get("output_loading_info") else model


def _class_of(auto: Any, config: Any, options: dict[str, Any]) -> Any:
    """Return the class that an Auto class chooses for a configuration."""
    trust = options.get("trust_remote_code")
    with torch.device("meta"):  # the configuration may have dtype="auto", which builds no model
        return type(auto.from_config(config, dtype=torch.float32, trust_remote_code=trust))


def _changed(kind: Any, records: list[Record]) -> Any:
    """Return a subclass with the changes, for ``from_pretrained`` to build and load."""

    class Changed(kind):
        def __init__(self, config: Any, **settings: Any) -> None:
            super().__init__(config, **settings)
            before = {name for name, _ in self.named_parameters()}
            with torch.device("cpu"):  # activations are evaluated
                _change(self, records)
            Changed.added = {name for name, _ in self.named_parameters()} - before
            Changed.trained = {n: p.requires_grad for n, p in self.named_parameters()}

    # transformers chooses the loss and the names of weights by these.
    Changed.__name__, Changed.__module__ = kind.__name__, kind.__module__
    return Changed


def _change(model: Any, records: list[Record]) -> None:
    """Make the changes in a model of the class as before, or of one with or without a head."""
    again = list(records)
    write(model, again)
    for record in records:
        root = root_of(model, record)
        if "kanify" in record:
            mlps = [one for one in record["mlps"] if _holds(root, one["mlp"]["activation"])]
            kanify_like(root, {**record, "mlps": mlps or record["mlps"]})
        else:
            places = {name: one for name, one in record["places"].items() if _holds(root, name)}
            adapt_like(root, {**record, "places": places or record["places"]})
    again[:] = records  # each change has added its record


def _holds(root: nn.Module, name: str) -> bool:
    """Return True if a model has the attribute: another head, or a base without one, lacks some."""
    owner, _, attribute = name.rpartition(".")
    return hasattr(dict(root.named_modules()).get(owner), attribute)
