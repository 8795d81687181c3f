"""The records of changes in the configuration of a model of transformers, saved with the model."""

from __future__ import annotations

import copy
import json
import sys
from typing import Any

from torch import nn

from kat.models.pretrained.loader import METHOD, Record, register_pretrained


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
    if not before:
        if getattr(model.config, "quantization_config", None) is not None:
            return
        if model.base_model is not model:  # without a head it may be a part, saved by the whole
            _own_configuration(model)
    entry = {"quant_method": METHOD, "changes": [*before, _as_json(record)]}
    model.config.quantization_config = entry


def _own_configuration(model: Any) -> None:
    """Gives a model and its parts a configuration that other models built from it do not share."""
    shared = model.config
    own = copy.copy(shared)
    for module in model.modules():
        if vars(module).get("config") is shared:
            module.config = own


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
