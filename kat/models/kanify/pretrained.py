"""Kanified models of transformers through ``save_pretrained`` and ``from_pretrained``.

transformers builds a model of its class, lets the method that ``quantization_config`` of the
model's configuration names change it, and then loads the weights. Kanify is such a method: its
entry holds the records of the plans in place.
"""

from __future__ import annotations

import copy
from functools import cache
from importlib import import_module
from typing import Any

import torch

from kat.errors import InputError
from kat.models.kanify.noted import METHOD
from kat.models.kanify.record import kanify_like


@cache
def register_pretrained() -> None:
    """Lets ``from_pretrained`` of transformers put the rationals into models saved with them.

    It is to be called once in a process, before the first such model is loaded; :func:`kat.kanify`
    calls it for a model of transformers. A process without it loads the model without its
    rationals, and transformers warns of an unknown method.

    Examples:
        >>> import kat
        >>> from kat.models.kanify import register_pretrained
        >>> register_pretrained()
        >>> from transformers import LlamaConfig, LlamaModel
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        >>> model = LlamaModel(LlamaConfig(num_hidden_layers=1, vocab_size=50, **size))
        >>> plan = kat.kanify(model)
        >>> model.save_pretrained("folder")
        >>> type(LlamaModel.from_pretrained("folder").layers[0].mlp.act_fn).__name__
        'GroupRational'
    """
    # As Any, since what transformers has is another thing in each of its versions.
    quantizers: Any = import_module("transformers.quantizers")
    configs: Any = import_module("transformers.utils.quantization_config")

    @quantizers.register_quantization_config(METHOD)
    class KanifyRecords(configs.QuantizationConfigMixin):
        """The records of the plans, in the order in which they were applied."""

        def __init__(self, plans: list[dict[str, Any]], quant_method: str = METHOD) -> None:
            self.quant_method = quant_method
            self.plans = plans

    @quantizers.register_quantizer(METHOD)
    class KanifyLoader(quantizers.HfQuantizer):
        """Puts the rationals into a model that has no weights yet."""

        is_trainable = True

        def is_serializable(self) -> bool:
            return True

        def preprocess_model(self, model: Any, **others: Any) -> None:
            """Puts the rationals in place, on the device of the model, which is meta."""
            del model.config.quantization_config
            with torch.device("cpu"):  # activations are evaluated
                for record in self.quantization_config.plans:
                    _put(model, record)

        def postprocess_model(self, model: Any, **others: Any) -> None:
            """Leaves a model that counts as what it is: not quantized."""
            del model.hf_quantizer


def _put(model: Any, record: dict[str, Any]) -> None:
    """Kanifies a model by a record, of the same class or of one with or without a head."""
    base = f"{model.base_model_prefix}."
    for rename in (str, lambda name: base + name, lambda name: name.removeprefix(base)):
        renamed = copy.deepcopy(record)
        for entry in renamed["mlps"]:
            for part in ("activation", "first", "second", "gate"):
                entry["mlp"][part] = entry["mlp"][part] and rename(entry["mlp"][part])
        names = {entry["mlp"]["first"] for entry in renamed["mlps"]}
        if names <= {name for name, _ in model.named_modules()}:
            kanify_like(model, renamed)
            return
    raise InputError(f"the rationals saved with the model do not fit {type(model).__name__}")
