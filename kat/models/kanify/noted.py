"""The records of plans in the configuration of a model of transformers, which it is saved with."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

METHOD = "kanify"
"""The name of the entry, as of a method of quantization; :mod:`kat.models.kanify.pretrained`."""


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model is of transformers, and can be saved by ``save_pretrained``."""
    transformers: Any = sys.modules.get("transformers")
    return transformers is not None and isinstance(model, transformers.PreTrainedModel)


def remember(model: Any, record: dict[str, Any]) -> None:
    """Adds the record of a plan to the configuration of a model of transformers.

    That of a quantized model is left as it is: there is room for one method.
    """
    if not is_pretrained(model):
        return
    noted = getattr(model.config, "quantization_config", None)
    if noted is None:
        model.config.quantization_config = {"quant_method": METHOD, "plans": [record]}
    elif _is_ours(noted):
        noted["plans"].append(record)


def forget(model: nn.Module) -> None:
    """Removes the record that was added last."""
    config: Any = getattr(model, "config", None)
    noted: Any = getattr(config, "quantization_config", None)
    if not _is_ours(noted):
        return
    noted["plans"].pop()
    if not noted["plans"]:
        del config.quantization_config


def _is_ours(noted: Any) -> bool:
    return isinstance(noted, dict) and noted.get("quant_method") == METHOD
