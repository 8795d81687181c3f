"""The record of changes in the configuration of a model of transformers.

:func:`kat.kanify` and :func:`kat.adapt` add to it, ``save_pretrained`` writes it into
``config.json``, and :func:`kat.models.load_pretrained` makes the changes again.
"""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from torch import nn

ENTRY = "kat_changes"
"""The name of the record in a configuration. Each module that has the configuration has the same
list under this name: another model may be built from the configuration, without the changes."""

Record = dict[str, Any]
"""The description of a change, from which it is made again; ready for JSON."""


def recorded(model: nn.Module) -> list[Record]:
    """Return the records of the changes in a model, in their order."""
    lists = [vars(one)[ENTRY] for one in _sharing(model) if ENTRY in vars(one)]
    return lists[0] if lists else []


def remember(model: Any, record: Record) -> None:
    """Add the record of a change to the configuration of a model of transformers."""
    # Not transformers itself, which others import: its attribute would load its models for seconds.
    models: Any = sys.modules.get("transformers.modeling_utils")
    if models is None or not isinstance(model, models.PreTrainedModel):
        return
    records = recorded(model)
    if not records:
        write(model, records)
    records.append(json.loads(json.dumps(record)))  # as it is after it was saved and loaded


def forget(model: Any, record: Record) -> None:
    """Remove the record of adapters, if it is there."""
    records = recorded(model)
    kept = [one for one in records if one.get("places") != record["places"]]
    if records and not kept:
        delattr(model.config, ENTRY)
    records[:] = kept


def write(model: Any, records: list[Record]) -> None:
    """Write records into the configuration of a model, in place of those of another model."""
    config, sharing = model.config, _sharing(model)
    is_foreign = getattr(config, ENTRY, records) is not records
    # Without a head it may be a part, saved by the whole, which has the same configuration.
    if is_foreign or model.base_model is not model:
        config = copy.copy(config)
    setattr(config, ENTRY, records)
    for module in sharing:
        module.config = config
        setattr(module, ENTRY, records)


def root_of(model: Any, record: Record) -> nn.Module:
    """Return the module below which the names of a record are: the record may be of another head.

    It is the model, its base without the head, or a module around the base.
    """
    around: Any = nn.Module()
    around.config = model.config
    around.add_module(model.base_model_prefix or "base_model", model)
    names = set(record.get("places", ()))  # of adapters, else of MLPs that are kanified
    names.update(entry["mlp"]["first"] for entry in record.get("mlps", ()))
    for root in (model, model.base_model, around):
        if names & dict(root.named_modules()).keys():
            return root
    return model


def _sharing(model: nn.Module) -> list[Any]:
    """Return the modules with the configuration of a model."""
    config = getattr(model, "config", None)
    return [one for one in model.modules() if vars(one).get("config", model) is config]
