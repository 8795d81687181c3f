"""Registration of models with timm."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from functools import partial, update_wrapper
from typing import Any

from timm.models import (
    build_model_with_cfg,
    generate_default_cfgs,
    is_model,
    register_model,
    register_notrace_module,
)
from torch import nn

from kat.nn import BSplineKANLinear, GroupRational

for _layer in (GroupRational, BSplineKANLinear):  # timm's tracing takes each as one node
    register_notrace_module(_layer)
_overwritten: list[str] = []
"""Names that were registered before: of timm's warnings, a module shows the first alone."""


def register(
    module: str,
    name: str,
    model_class: type[nn.Module],
    args: dict[str, Any],
    cfgs: Mapping[str, dict[str, Any]],
) -> None:
    """Register a model with timm.

    Args:
        module: ``__name__`` of the module that gets the function that builds it, and its entries in
            ``default_cfgs``.
        name: of the model.
        model_class: its class. An attribute ``pretrained_filter`` becomes timm's
            ``pretrained_filter_fn``, which fits a checkpoint to a model.
        args: the default arguments.
        cfgs: timm's configurations, by the name with a tag or without one.
    """
    namespace = vars(sys.modules[module])
    namespace.setdefault("default_cfgs", {}).update(generate_default_cfgs(dict(cfgs)))
    create: Any = partial(_create, model_class, name, args)
    update_wrapper(create, _create)
    create.__name__, create.__module__ = name, module
    with warnings.catch_warnings():
        if is_model(name):
            warnings.simplefilter("ignore" if _overwritten else "default")
            _overwritten.append(name)
        namespace[name] = register_model(create)


def _create(
    model_class: type[nn.Module],
    name: str,
    defaults: dict[str, Any],
    pretrained: bool = False,
    out_indices: Any = 3,
    **kwargs: Any,
) -> nn.Module:
    """Build the model of this name; it takes the arguments of its class, and timm's."""
    return build_model_with_cfg(
        model_class,
        name,
        pretrained,
        pretrained_filter_fn=getattr(model_class, "pretrained_filter", None),
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **{**defaults, **kwargs},
    )
