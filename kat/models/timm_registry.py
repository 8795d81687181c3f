"""Registration of models with timm, and errors that a user can act on when it builds them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial, update_wrapper
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from timm.models import (
    build_model_with_cfg,
    register_model,
    register_notrace_module,
    resolve_pretrained_cfg,
)
from torch import nn

from kat.errors import InputError, first_line
from kat.nn import BSplineKANLinear, GroupRational

for _layer in (GroupRational, BSplineKANLinear):  # timm's tracing takes each as one node
    register_notrace_module(_layer)


def register_family(
    model_class: type[nn.Module], variants: Mapping[str, dict[str, Any]], module: str
) -> None:
    """Registers models of a class with timm.

    Args:
        model_class: the models' class. An attribute ``pretrained_filter`` becomes timm's
            ``pretrained_filter_fn``, which fits a checkpoint to a model.
        variants: the default arguments of the models, by name.
        module: ``__name__`` of the module that has their ``default_cfgs``. The functions that
            build them are added to it.
    """
    for name, defaults in variants.items():
        create: Any = partial(_create, model_class, name, defaults)
        update_wrapper(create, _create)
        create.__name__, create.__module__ = name, module
        setattr(sys.modules[module], name, register_model(create))


def _create(
    model_class: type[nn.Module],
    name: str,
    defaults: dict[str, Any],
    pretrained: bool = False,
    out_indices: Any = 3,
    **kwargs: Any,
) -> nn.Module:
    """Builds the model of this name. Arguments are those of its class, and timm's.

    Raises:
        InputError: pretrained weights that are unavailable, damaged, or of another model.
    """
    kwargs = {**defaults, **kwargs}
    try:
        return build_model_with_cfg(
            model_class,
            name,
            pretrained,
            pretrained_filter_fn=getattr(model_class, "pretrained_filter", None),
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **kwargs,
        )
    except (AttributeError, EOFError, RuntimeError, SafetensorError, UnpicklingError):
        file = _pretrained_cfg(name, kwargs).file
        if pretrained and file:
            from kat.models.checkpoints.weight_files import read_weights  # imports NumPy

            read_weights(Path(file))  # raises what is wrong with the file, if anything is
        raise
    except OSError as error:  # among them the errors of the Hub and of urllib
        config = _pretrained_cfg(name, kwargs)
        raise InputError(
            f"the weights of {name!r} are unavailable at"
            f" {config.file or config.hf_hub_id or config.url}: {first_line(error)} Without a"
            " network, put them into the cache (HF_HOME), or download the file elsewhere and pass"
            " pretrained_cfg_overlay={'file': 'PATH'}"
        ) from error


def _pretrained_cfg(name: str, kwargs: Mapping[str, Any]) -> Any:
    """Where timm takes the weights from."""
    overlay = kwargs.get("pretrained_cfg_overlay")
    return resolve_pretrained_cfg(name, kwargs.get("pretrained_cfg"), overlay)
