"""The records of changes in the configuration of a model of transformers, saved with the model."""

from __future__ import annotations

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
    records = [*noted(model), _as_json(record)]
    if len(records) > 1 or getattr(model.config, "quantization_config", None) is None:
        model.config.quantization_config = {"quant_method": METHOD, "changes": records}


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
