"""Registration of models with timm."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial, update_wrapper
from typing import Any

from timm.models import build_model_with_cfg, register_model, register_notrace_module
from torch import nn

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
    """Builds the model of this name. Arguments are those of its class, and timm's."""
    return build_model_with_cfg(
        model_class,
        name,
        pretrained,
        pretrained_filter_fn=getattr(model_class, "pretrained_filter", None),
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **{**defaults, **kwargs},
    )
