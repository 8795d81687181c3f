"""The Kolmogorov-Arnold Transformer: timm's Vision Transformer with GR-KAN layers for its MLPs."""

from __future__ import annotations

from functools import partial
from typing import Any, TypeVar

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from kat.nn import GRKANMlp, Init, init_attention_mimetic_

Transformer = TypeVar("Transformer", bound=VisionTransformer)

ATTENTION_SCHEMES = ("mimetic", "trunc_normal")


class KAT(VisionTransformer):
    """A Vision Transformer whose block is x + attn(norm(x)), then x + GRKANMlp(norm(x)).

    Everything of timm's ``VisionTransformer`` works as there: ``features_only``,
    ``dynamic_img_size``, ``reset_classifier``, ``forward_intermediates``, checkpointing.

    Args:
        num_groups, degree, form, share: of the rationals, see :class:`kat.nn.GroupRational`.
        act_init: the function that the second rational of each MLP starts as, see ``init`` of
            :class:`kat.nn.GroupRational`.
        mlp_init: how the MLPs' weights are drawn, see :func:`kat.nn.init_grkan_`.
        fused: keep less for the backward pass, see :class:`kat.nn.GRKANLinear`.
        attn_init: ``"mimetic"``, see :func:`kat.nn.init_attention_mimetic_`, or
            ``"trunc_normal"``, timm's own.
        weight_init: timm's scheme for everything else.
        **kwargs: of timm's ``VisionTransformer``.

    Raises:
        ValueError: a width that the groups do not divide, an unknown scheme or function.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer, arXiv 2409.10594.
    """

    def __init__(
        self,
        *,
        num_groups: int = 8,
        degree: tuple[int, int] = (5, 4),
        form: str = "A",
        share: str = "numerator",
        act_init: Init = "swish",
        mlp_init: str = "variance_preserving",
        fused: bool = True,
        attn_init: str = "mimetic",
        weight_init: Any = "",
        **kwargs: Any,
    ) -> None:
        if attn_init not in ATTENTION_SCHEMES:
            raise ValueError(f"attn_init must be one of {ATTENTION_SCHEMES}, got {attn_init!r}")
        mlp_layer: Any = partial(
            GRKANMlp,
            num_groups=num_groups,
            degree=degree,
            form=form,
            share=share,
            act_init=act_init,
            weight_init=mlp_init,
            fused=fused,
        )
        super().__init__(mlp_layer=mlp_layer, weight_init="skip", **kwargs)
        self.attn_init = attn_init
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(needs_reset=False)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Draws all weights: timm's scheme, then the GR-KAN layers', then the attention's."""
        super().init_weights(mode, needs_reset)
        if self.attn_init == "mimetic":
            attentions: list[Any] = [block.attn for block in self.blocks]
            for attention in attentions:
                init_attention_mimetic_(attention.qkv, attention.proj, attention.num_heads)

    def no_weight_decay(self) -> set[str]:
        """timm's set and every rational coefficient: decay would pull F towards zero."""
        return super().no_weight_decay() | rational_parameter_names(self)


def rational_parameter_names(model: nn.Module) -> set[str]:
    """The names of the rational coefficients among a model's parameters."""
    ends = ("weight_numerator", "weight_denominator")
    return {name for name, _ in model.named_parameters() if name.endswith(ends)}


def create_kat(variant: str, pretrained: bool, **kwargs: Any) -> KAT:
    """Builds a registered KAT by timm's own builder."""
    return build_transformer(KAT, variant, pretrained, **kwargs)


def build_transformer(
    model_class: type[Transformer], variant: str, pretrained: bool, **kwargs: Any
) -> Transformer:
    """Builds a registered model of a class by timm's builder, with ``features_only`` and all."""
    out_indices = kwargs.pop("out_indices", 3)
    return build_model_with_cfg(
        model_class,
        variant,
        pretrained,
        pretrained_filter_fn=checkpoint_filter_fn,
        feature_cfg={"out_indices": out_indices, "feature_cls": "getter"},
        **kwargs,
    )


_CONFIG = {
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

_SIZES = ("tiny", "small", "base")
_ACTIVATIONS = ("", "_swish", "_gelu")

default_cfgs = generate_default_cfgs(
    {f"kat_{size}{act}_patch16_224": dict(_CONFIG) for size in _SIZES for act in _ACTIVATIONS}
)

_TINY = {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3}
_SMALL = {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6}
_BASE = {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12}


@register_model
def kat_tiny_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16: width 192, 5,718,328 parameters; the second rational starts as Swish."""
    return create_kat("kat_tiny_patch16_224", pretrained, **{**_TINY, **kwargs})


@register_model
def kat_tiny_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16, another name of ``kat_tiny_patch16_224``."""
    return create_kat("kat_tiny_swish_patch16_224", pretrained, **{**_TINY, **kwargs})


@register_model
def kat_tiny_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-T/16 whose second rational starts as GELU."""
    args = {**_TINY, "act_init": "gelu", **kwargs}
    return create_kat("kat_tiny_gelu_patch16_224", pretrained, **args)


@register_model
def kat_small_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16: width 384, 22.1 M parameters; the second rational starts as Swish."""
    return create_kat("kat_small_patch16_224", pretrained, **{**_SMALL, **kwargs})


@register_model
def kat_small_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16, another name of ``kat_small_patch16_224``."""
    return create_kat("kat_small_swish_patch16_224", pretrained, **{**_SMALL, **kwargs})


@register_model
def kat_small_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-S/16 whose second rational starts as GELU."""
    args = {**_SMALL, "act_init": "gelu", **kwargs}
    return create_kat("kat_small_gelu_patch16_224", pretrained, **args)


@register_model
def kat_base_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16: width 768, 86.6 M parameters; the second rational starts as Swish."""
    return create_kat("kat_base_patch16_224", pretrained, **{**_BASE, **kwargs})


@register_model
def kat_base_swish_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16, another name of ``kat_base_patch16_224``."""
    return create_kat("kat_base_swish_patch16_224", pretrained, **{**_BASE, **kwargs})


@register_model
def kat_base_gelu_patch16_224(pretrained: bool = False, **kwargs: Any) -> KAT:
    """KAT-B/16 whose second rational starts as GELU."""
    args = {**_BASE, "act_init": "gelu", **kwargs}
    return create_kat("kat_base_gelu_patch16_224", pretrained, **args)
