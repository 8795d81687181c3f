"""Changed models of transformers through ``save_pretrained`` and ``from_pretrained``.

:func:`kat.kanify` and :func:`kat.adapt` note the records of their changes in the configuration of
the model, as its ``quantization_config``. transformers builds a model of its class, lets the
method that this entry names change the model, and then loads the weights. Ours is such a method.
"""

from __future__ import annotations

import copy
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

import torch
from torch import nn

from kat.errors import InputError
from kat.text import listing

METHOD = "kat"
"""The name of the method in the entry."""
_CHANGES = "_kat_changes"
"""The attribute of modules that is the list of changes in their configuration, if these are theirs:
another model may be built from the configuration."""

Record = dict[str, Any]
"""The description of a change, from which it is made again; ready for JSON."""
Rename = Callable[[str], str]


class Kind(NamedTuple):
    """The operations on the records of one kind of change.

    Args:
        make: makes the change in a model; raises InputError, and leaves the model unchanged, if the
            record does not fit.
        renamed: a copy of the record with other names of modules.
    """

    make: Callable[[nn.Module, Record], object]
    renamed: Callable[[Record, Rename], Record]


KINDS: dict[str, Kind] = {}
"""Kinds of changes, by a key that only their records have."""


@cache
def register_pretrained() -> None:
    """Let ``from_pretrained`` of transformers load models with rationals and adapters.

    Call it once in a process, before the first such model is loaded; :func:`kat.kanify` and
    :func:`kat.adapt` call it for a model of transformers. A process without it loads the model
    without its rationals, and transformers warns of an unknown method.

    Examples:
        >>> import kat
        >>> from kat.models import register_pretrained
        >>> register_pretrained()
        >>> from transformers import LlamaConfig, LlamaModel
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        >>> model = LlamaModel(LlamaConfig(num_hidden_layers=1, vocab_size=50, **size))
        >>> plan = kat.kanify(model)
        >>> model.save_pretrained("folder")
        >>> type(LlamaModel.from_pretrained("folder").layers[0].mlp.act_fn).__name__
        'GroupRational'
    """
    for kind in ("kanify", "adapt"):  # each enters KINDS as it is imported
        import_module(f"kat.models.{kind}.api")
    # As Any, since what transformers has is another thing in each of its versions.
    quantizers: Any = import_module("transformers.quantizers")
    configs: Any = import_module("transformers.utils.quantization_config")

    @quantizers.register_quantization_config(METHOD)
    class KATChanges(configs.QuantizationConfigMixin):
        """The records of the changes, in the order in which they were made."""

        def __init__(self, changes: list[Record], quant_method: str = METHOD) -> None:
            self.quant_method = quant_method
            self.changes = changes

    @quantizers.register_quantizer(METHOD)
    class KATLoader(quantizers.HfQuantizer):
        """Makes the changes in a model that has no weights yet."""

        is_trainable = True

        def is_serializable(self) -> bool:
            return True

        def preprocess_model(
            self, model: Any, checkpoint_files: Sequence[str] | None = None, **others: Any
        ) -> None:
            """Makes the changes, on the device of the model, which is meta.

            Raises:
                InputError: a change does not fit, or the weights lack what it has added.
            """
            del model.config.quantization_config
            before = {name for name, _ in model.named_parameters()}
            with torch.device("cpu"):  # activations are evaluated
                for record in self.quantization_config.changes:
                    _make(model, record)
            self.frozen = [n for n, p in model.named_parameters() if not p.requires_grad]
            added = {name for name, _ in model.named_parameters()} - before
            _check_stored(added, checkpoint_files or ())

        def postprocess_model(self, model: Any, **others: Any) -> None:
            """Leaves a model that counts as what it is: not quantized, and frozen in part."""
            del model.hf_quantizer
            for name in self.frozen:
                model.get_parameter(name).requires_grad_(False)


def _check_stored(names: Collection[str], files: Iterable[str]) -> None:
    """Checks that safetensors files have some parameters, by the ends of their names.

    transformers would leave missing ones without values. It stores some models, such as Mixtral,
    under other names of modules, and some without a prefix.
    """
    if not all(str(file).endswith(".safetensors") for file in files):
        return

    def end(name: str) -> str:
        return ".".join(name.split(".")[-2:])

    stored: Counter[str] = Counter()
    for file in files:
        with import_module("safetensors").safe_open(file, framework="pt") as opened:
            stored.update(map(end, opened.keys()))
    lacking = Counter(map(end, names)) - stored
    if stored and lacking:
        missing = sorted(name for name in names if end(name) in lacking)
        raise InputError(
            f"the configuration has changes of kat, but the weights lack {listing(missing)}: a"
            " process that had not called kat.models.register_pretrained() has loaded"
            " and saved the model, without them, or the model shared its configuration with one"
            " that was changed"
        )


def renames(model: Any) -> tuple[Rename, ...]:
    """Functions that rename modules for a model that has got or lost a head since it was saved."""
    base = f"{model.base_model_prefix}."
    return (lambda name: base + name, lambda name: name.removeprefix(base), str)


def _make(model: Any, record: Record) -> None:
    """Makes a change in a model of the same class as before, or of one with or without a head."""
    (kind,) = [kind for key, kind in KINDS.items() if key in record]
    errors = []
    for rename in renames(model):
        try:
            kind.make(model, kind.renamed(record, rename))
            return
        except InputError as error:
            errors.append(error)
    raise InputError(
        f"a change saved with the model does not fit {type(model).__name__}: {errors[0]}"
    )


def noted(model: nn.Module) -> list[Record]:
    """The records in the configuration of a model, in the order of the changes."""
    entry: Any = getattr(getattr(model, "config", None), "quantization_config", None)
    if not isinstance(entry, dict) or entry.get("quant_method") != METHOD:
        return []
    records: list[Record] = entry["changes"]
    return records


def remember(model: Any, record: Record) -> None:
    """Adds the record of a change to the configuration of a model of transformers.

    The configuration of a quantized model is left as it is: there is room for one method.
    """
    transformers: Any = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return
    register_pretrained()
    before = noted(model)
    if not before and getattr(model.config, "quantization_config", None) is not None:
        return
    sharing = [one for one in model.modules() if vars(one).get("config") is model.config]
    is_foreign = bool(before) and not any(vars(one).get(_CHANGES) is before for one in sharing)
    changes = [*(() if is_foreign else before), _as_json(record)]
    # Without a head it may be a part, saved by the whole, which has the same configuration.
    own = is_foreign or (not before and model.base_model is not model)
    config = copy.copy(model.config) if own else model.config
    config.quantization_config = {"quant_method": METHOD, "changes": changes}
    for module in sharing:
        module.config = config
        setattr(module, _CHANGES, changes)


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
