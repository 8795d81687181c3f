"""The Kolmogorov-Arnold Transformer: timm's Vision Transformer with GR-KAN layers for its MLPs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial, update_wrapper
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar

from safetensors import SafetensorError
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import (
    PretrainedCfg,
    build_model_with_cfg,
    generate_default_cfgs,
    register_model,
    resolve_pretrained_cfg,
)
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from kat.errors import InputError, first_line
from kat.models.checkpoints.state_dict import (
    filter_released,
    is_coefficient,
    published_name,
    read_state_dict,
)
from kat.models.vit import ViT
from kat.nn import GRKANMlp, Init

Model = TypeVar("Model", bound=nn.Module)


class KAT(ViT):
    """A Vision Transformer whose block is x + attn(norm(x)), then x + GRKANMlp(norm(x)).

    Everything of timm's ``VisionTransformer`` works as there: ``features_only``,
    ``dynamic_img_size``, ``reset_classifier``, ``forward_intermediates``, checkpointing. A state
    dict may name the coefficients as either published variant does.

    Args:
        num_groups, degree, form, share: of the rationals, see :class:`kat.nn.GRKANMlp`.
        first_init: the function that the first rational of each MLP starts as; ``"none"``: there is
            none.
        act_init: the function that the second one starts as, see ``init`` of
            :class:`kat.nn.GroupRational`.
        mlp_init: how the MLPs' weights are drawn, see :func:`kat.nn.init_grkan_`.
        fused: keep less for the backward pass, see :class:`kat.nn.GRKANLinear`.
        attn_init: of the attention, see :class:`kat.models.ViT`.
        **kwargs: of timm's ``VisionTransformer``.

    Raises:
        ValueError: a width that the groups do not divide, an unknown scheme or function, or an
            act_layer, whose place the rationals have.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer, arXiv 2409.10594.
    """

    def __init__(
        self,
        *,
        num_groups: int | str = 8,
        degree: tuple[int, int] = (5, 4),
        form: str = "A",
        share: str = "numerator",
        first_init: Init = "identity",
        act_init: Init = "swish",
        mlp_init: str = "variance_preserving",
        fused: bool = True,
        attn_init: str = "mimetic",
        **kwargs: Any,
    ) -> None:
        if kwargs.get("act_layer") is not None:
            raise ValueError("a KAT's activations are its rationals: give act_init, not act_layer")
        mlp_layer = partial(
            GRKANMlp,
            num_groups=num_groups,
            degree=degree,
            form=form,
            share=share,
            first_init=first_init,
            act_init=act_init,
            weight_init=mlp_init,
            fused=fused,
        )
        super().__init__(mlp_layer=mlp_layer, attn_init=attn_init, **kwargs)
        self.register_load_state_dict_pre_hook(_rename_coefficients)

    def no_weight_decay(self) -> set[str]:
        """timm's set and every rational coefficient: decay would pull F towards zero."""
        return super().no_weight_decay() | rational_parameter_names(self)


def _rename_coefficients(_: nn.Module, state_dict: dict[str, Any], *__: Any) -> None:
    for name in list(state_dict):
        state_dict[published_name(name)] = state_dict.pop(name)


def rational_parameter_names(model: nn.Module) -> set[str]:
    """The names of the rational coefficients among a model's parameters."""
    return {name for name, _ in model.named_parameters() if is_coefficient(name)}


def create_kat(variant: str, pretrained: bool, **kwargs: Any) -> KAT:
    """Builds a registered KAT by timm's own builder."""
    return build_transformer(KAT, variant, pretrained, **kwargs)


def build_transformer(
    model_class: type[Model], variant: str, pretrained: bool, **kwargs: Any
) -> Model:
    """Builds a registered model of a class by timm's builder, with ``features_only`` and all.

    Raises:
        InputError: pretrained weights that cannot be had, or that are not the model's.
    """
    out_indices = kwargs.pop("out_indices", 3)
    filters = ((KAT, filter_released), (VisionTransformer, checkpoint_filter_fn))
    known = [function for kind, function in filters if issubclass(model_class, kind)]
    try:
        return build_model_with_cfg(
            model_class,
            variant,
            pretrained,
            pretrained_filter_fn=next(iter(known), None),
            feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
            **kwargs,
        )
    except (AttributeError, EOFError, RuntimeError, SafetensorError, UnpicklingError):
        file = _weights_config(variant, kwargs).file
        if pretrained and file:
            read_state_dict(Path(file))  # says what is wrong with the file, if that is what it is
        raise
    except OSError as error:  # the hub's and urllib's own kinds are among them
        config = _weights_config(variant, kwargs)
        raise InputError(
            f"the weights of {variant!r} cannot be had from"
            f" {config.file or config.hf_hub_id or config.url}: {first_line(error)} Where there is"
            " no network, have them in the cache (HF_HOME), or download a file elsewhere and give"
            " pretrained_cfg_overlay={'file': 'PATH'}"
        ) from error


def register_family(
    model_class: type[nn.Module], variants: Mapping[str, dict[str, Any]], module: str
) -> None:
    """Registers models of a class with timm, by name, each with its default arguments.

    Args:
        model_class: what is built.
        variants: the arguments by name.
        module: ``__name__`` of the module whose ``default_cfgs`` they have, and which gets the
            functions.
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
    **kwargs: Any,
) -> nn.Module:
    """Builds the model of this name; the arguments are those of its class."""
    return build_transformer(model_class, name, pretrained, **{**defaults, **kwargs})


def _weights_config(variant: str, kwargs: dict[str, Any]) -> PretrainedCfg:
    """Where timm's builder takes the weights from."""
    overlay = kwargs.get("pretrained_cfg_overlay")
    return resolve_pretrained_cfg(variant, kwargs.get("pretrained_cfg"), overlay)


IMAGENET_CONFIG = {
    "num_classes": 1000,
    "input_size": (3, 224, 224),
    "pool_size": None,
    "crop_pct": 0.875,
    "interpolation": "bicubic",
    "fixed_input_size": True,
    "mean": IMAGENET_DEFAULT_MEAN,
    "std": IMAGENET_DEFAULT_STD,
    "first_conv": "patch_embed.proj",
    "classifier": "head",
    "license": "mit",
}

_HUB = "https://huggingface.co/adamdad/kat_pretained/resolve/main"
_GITHUB = "https://github.com/Adamdad/kat/releases/download/checkpoint"

# The authors' files. Their README has the links of tiny and small swapped, their code has not.
_FILES = {
    "kat_tiny_patch16_224": f"{_HUB}/kat_tiny_patch16_224"
    "_1f3ad3b2e69821f3d412f2924cf159a0e266f142d739cb68f68f796f5a0fe289.pth",
    "kat_small_patch16_224": f"{_HUB}/kat_small_patch16_224"
    "_32487885cf13d2c14e461c9016fac8ad43f7c769171f132530941e930aeb5fe2.pth",
    "kat_base_patch16_224": f"{_HUB}/kat_base_patch16_224"
    "_abff874d925d756d15cde97303f772a3460ddbd44b9c53fb9ce5cf15be230fb6.pth",
    "kat_tiny_patch16_224.vitft": f"{_GITHUB}/kat_tiny_patch16_224-finetune"
    "_64f124d003803e4a7e1aba1ba23500ace359b544e8a5f0110993f25052e402fb.pth",
    "kat_small_patch16_224.vitft": f"{_GITHUB}/kat_small_patch_224-finetune"
    "_3ae087a4c28e2993468eb377d5151350c52c80b2a70cc48ceec63d1328ba58e0.pth",
    "kat_base_patch16_224.vitft": f"{_HUB}/kat_base_patch16_224-finetune"
    "_440bf1ead9dd8ecab642078cfb60ae542f1fa33ca65517260501e02c011e38f2.pth",
}

default_cfgs = generate_default_cfgs(
    {
        **{
            name.replace("_patch16", f"{alias}_patch16"): {
                **IMAGENET_CONFIG,
                "hf_hub_id": f"adamdad/{name}",
                "url": url,
            }
            for name, url in _FILES.items()
            for alias in ("", "_swish")
        },
        **{f"kat_{size}_gelu_patch16_224": IMAGENET_CONFIG for size in ("tiny", "small", "base")},
    }
)

TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


@register_model
def kat_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16: width 192, 5,718,328 parameters; the second rational starts as Swish."""
    return create_kat("kat_tiny_patch16_224", pretrained, **{**TINY, **kwargs})


@register_model
def kat_tiny_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16, another name of ``kat_tiny_patch16_224``."""
    return create_kat("kat_tiny_swish_patch16_224", pretrained, **{**TINY, **kwargs})


@register_model
def kat_tiny_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16 whose second rational starts as GELU."""
    args = {**TINY, "act_init": "gelu", **kwargs}
    return create_kat("kat_tiny_gelu_patch16_224", pretrained, **args)


@register_model
def kat_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16: width 384, 22.1 M parameters; the second rational starts as Swish."""
    return create_kat("kat_small_patch16_224", pretrained, **{**SMALL, **kwargs})


@register_model
def kat_small_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16, another name of ``kat_small_patch16_224``."""
    return create_kat("kat_small_swish_patch16_224", pretrained, **{**SMALL, **kwargs})


@register_model
def kat_small_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16 whose second rational starts as GELU."""
    args = {**SMALL, "act_init": "gelu", **kwargs}
    return create_kat("kat_small_gelu_patch16_224", pretrained, **args)


@register_model
def kat_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16: width 768, 86.6 M parameters; the second rational starts as Swish."""
    return create_kat("kat_base_patch16_224", pretrained, **{**BASE, **kwargs})


@register_model
def kat_base_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16, another name of ``kat_base_patch16_224``."""
    return create_kat("kat_base_swish_patch16_224", pretrained, **{**BASE, **kwargs})


@register_model
def kat_base_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16 whose second rational starts as GELU."""
    args = {**BASE, "act_init": "gelu", **kwargs}
    return create_kat("kat_base_gelu_patch16_224", pretrained, **args)
