"""The records of changes in the configuration of a model of transformers, saved with the model."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from torch import nn

from kat.models.pretrained.loader import METHOD, Record, register_pretrained

_CHANGES = "_kat_changes"
"""The attribute of modules that is the list of changes in their configuration, if these are theirs:
another model may be built from the configuration."""


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model is of transformers, and can be saved by ``save_pretrained``."""
    transformers: Any = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)


def noted(model: nn.Module) -> list[Record]:
    """The records in the configuration of a model, in the order of the changes."""
    entry: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return []
    records: list[Record] = entry["changes"]
    return records


def remember(model: Any, record: Record) -> None:
    """Adds the record of a change to the configuration of a model of transformers.

    That of a quantized model is left as it is: there is room for one method.
    """
    if not is_pretrained(model):
        return
    register_pretrained()
    before = noted(model)
    is_foreign = bool(before) and not any(
        vars(module).get(_CHANGES) is before for module in model.modules()
    )
    if not before and getattr(model.config, "quantization_config", None) is not None:
        return
    # without a head it may be a part, saved by the whole
    if is_foreign or (not before and model.base_model is not model):
        _own_configuration(model)
    changes = [*(() if is_foreign else before), _as_json(record)]
    model.config.quantization_config = {"quant_method": METHOD, "changes": changes}
    for module in _sharing(model):
        setattr(module, _CHANGES, changes)


def _own_configuration(model: Any) -> None:
    """Gives a model and its parts a configuration that other models built from it do not share."""
    sharing, own = _sharing(model), copy.copy(model.config)
    for module in sharing:
        module.config = own


def _sharing(model: Any) -> list[nn.Module]:
    """The model and the parts of it that have its configuration."""
    return [module for module in model.modules() if vars(module).get("config") is model.config]


def forget(model: Any, record: Record) -> None:
    """Removes the record of a change, if it is there."""
    records = noted(model)
    if _as_json(record) in records:
        records.remove(_as_json(record))
        if not records:
            del model.config.quantization_config


def _as_json(record: Record) -> Any:
    """The record as it is after it was saved and loaded."""
    return json.loads(json.dumps(record))
