"""The Kolmogorov-Arnold Transformer: timm's Vision Transformer with GR-KAN layers for its MLPs.

``kat_tiny_patch16_224``, ``kat_small_patch16_224`` and ``kat_base_patch16_224`` are the official
models, of 5,718,328 (width 192), 22.1 M (384) and 86.6 M (768) parameters. Their second rationals
start as SiLU; ``kat_tiny_swish_patch16_224`` is the same model, and in
``kat_tiny_gelu_patch16_224`` they start as GELU.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from kat.models.baseline_mlps import FixedMlp, gated_width
from kat.models.checkpoints.weight_files import filter_released, published_name
from kat.models.timm_registry import register
from kat.models.vit import ViT
from kat.nn import GatedGRKANMlp, GRKANMlp, Init, Keep, Scheme, Share
from kat.ops import Form


class KAT(ViT):
    """A Vision Transformer: each block computes x + attn(norm(x)), then x + GRKANMlp(norm(x)).

    The whole interface of timm's ``VisionTransformer`` works: ``features_only``,
    ``dynamic_img_size``, ``reset_classifier``, ``forward_intermediates``, gradient checkpointing.
    A state dict may name the coefficients as either published variant does.

    Args:
        num_groups, degree, form, share: of the rationals, see :class:`kat.nn.GRKANMlp`.
        first_init: the initial function of the first rational of each MLP; ``"none"`` to leave the
            rational out.
        act_init: the initial function of the second one, see ``init`` of
            :class:`kat.nn.GroupRational`.
        mlp_init: initialization of the MLPs' weights, see :func:`kat.nn.init_grkan_`.
        keep: what the MLPs keep for the backward pass, see :class:`kat.nn.GRKANMlp`.
        attn_init: the initialization of the attention, see :class:`kat.models.ViT`.
        grkan_blocks: the blocks that have a GR-KAN MLP, e.g. ``[3]``, the others an MLP with
            GELU and the same ``mlp_init``; None: all.
        **kwargs: of :class:`kat.models.ViT` and timm's ``VisionTransformer``.

    Raises:
        ValueError: a width that ``num_groups`` does not divide, an unknown scheme or function, a
            block that is not there, or an ``act_layer``, in place of which KAT has rationals.

    Source: Yang and Wang, Kolmogorov-Arnold Transformer, arXiv 2409.10594.

    Examples:
        >>> import torch
        >>> import kat
        >>> sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64}
        >>> model = kat.models.KAT(**sizes, depth=2, num_heads=4)
        >>> model(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 1000])
        >>> model.blocks[0].mlp.act2.num_groups
        8
    """

    pretrained_filter = staticmethod(filter_released)
    has_rationals = True

    def __init__(
        self,
        *,
        num_groups: int | str = 8,
        degree: tuple[int, int] = (5, 4),
        form: Form = "A",
        share: Share = "numerator",
        first_init: Init = "identity",
        act_init: Init = "swish",
        mlp_init: Scheme = "variance_preserving",
        keep: Keep | None = None,
        attn_init: str = "mimetic",
        grkan_blocks: Sequence[int] | None = None,
        depth: int = 12,
        **kwargs: Any,
    ) -> None:
        mlp_layer: Any = partial(
            GRKANMlp,
            num_groups=num_groups,
            degree=degree,
            form=form,
            share=share,
            first_init=first_init,
            act_init=act_init,
            weight_init=mlp_init,
            keep=keep,
        )
        if grkan_blocks is not None:
            if not set(grkan_blocks) <= set(range(depth)):
                raise ValueError(f"grkan_blocks must be of 0 to {depth - 1}, got {grkan_blocks}")
            mlp_layers: list[Any] = [partial(FixedMlp, weight_init=mlp_init)] * depth
            for index in grkan_blocks:
                mlp_layers[index] = mlp_layer
            mlp_layer = mlp_layers
        super().__init__(mlp_layer=mlp_layer, attn_init=attn_init, depth=depth, **kwargs)
        self.register_load_state_dict_pre_hook(_rename_coefficients)


class GatedKAT(ViT):
    """A Vision Transformer: each block computes x + attn(norm(x)), then x + GatedGRKANMlp(norm(x)).

    The MLPs are :class:`kat.nn.GatedGRKANMlp`. Their hidden width is two thirds of
    ``mlp_ratio * embed_dim``, to the nearest multiple of ``num_groups``, so that they have about as
    many parameters as MLPs without a gate.

    Args:
        num_groups, degree, form, share: of the rationals, see :class:`kat.nn.GatedGRKANMlp`.
        act_init: the initial activation of the gates, see ``init`` of
            :class:`kat.nn.GroupRational`.
        mlp_init: initialization of the MLPs' weights, see ``weight_init`` there.
        packed, keep: see :class:`kat.nn.GatedGRKANMlp`.
        attn_init: the initialization of the attention, see :class:`kat.models.ViT`.
        **kwargs: of timm's ``VisionTransformer``.

    Raises:
        ValueError: an unknown scheme or function, or an ``act_layer``.

    Examples:
        >>> import kat
        >>> sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64}
        >>> model = kat.models.GatedKAT(**sizes, depth=2, num_heads=4)
        >>> model.blocks[0].mlp.fc1_g.out_features  # 256 * 2 / 3
        168
    """

    has_rationals = True

    def __init__(
        self,
        *,
        num_groups: int | str = 8,
        degree: tuple[int, int] = (5, 4),
        form: Form = "A",
        share: Share = "numerator",
        act_init: Init = "swish",
        mlp_init: Scheme = "variance_preserving",
        packed: bool = False,
        keep: Keep | None = None,
        attn_init: str = "mimetic",
        **kwargs: Any,
    ) -> None:
        mlp_layer = partial(
            _gated_mlp,
            packed=packed,
            num_groups=num_groups,
            act_init=act_init,
            degree=degree,
            form=form,
            share=share,
            weight_init=mlp_init,
            keep=keep,
        )
        super().__init__(mlp_layer=mlp_layer, attn_init=attn_init, **kwargs)


def _gated_mlp(
    in_features: int, hidden_features: int, *, packed: bool, num_groups: int | str, **options: Any
) -> GatedGRKANMlp:
    """Build a gated MLP in the place of an MLP with this hidden width."""
    width = gated_width(hidden_features, num_groups if isinstance(num_groups, int) else 1)
    hidden = 2 * width if packed else width
    return GatedGRKANMlp(in_features, hidden, packed=packed, num_groups=num_groups, **options)


def _rename_coefficients(_: nn.Module, state_dict: dict[str, Any], *__: Any) -> None:
    for name in list(state_dict):
        state_dict[published_name(name)] = state_dict.pop(name)


SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"patch_size": 16, "embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"patch_size": 16, "embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"patch_size": 16, "embed_dim": 768, "depth": 12, "num_heads": 12},
}

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

# The authors' files. The links of tiny and small are swapped in their README, not in their code.
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

for _size, _args in SIZES.items():
    for _suffix, _act_init in (("", "swish"), ("_swish", "swish"), ("_gelu", "gelu")):
        _name, _official = f"kat_{_size}{_suffix}_patch16_224", f"kat_{_size}_patch16_224"
        _tags = ("", ".vitft") if _act_init == "swish" else ()
        _cfgs = {
            f"{_name}{tag}": {
                **IMAGENET_CONFIG,
                "hf_hub_id": f"adamdad/{_official}{tag}",
                "url": _FILES[f"{_official}{tag}"],
            }
            for tag in _tags
        }
        _args = {**_args, "act_init": _act_init}
        register(__name__, _name, KAT, _args, _cfgs or {_name: IMAGENET_CONFIG})
