"""timm's Vision Transformer with other MLPs and initializations: the base of KAT, and baselines.

All of them set ``mlp_layer=`` of timm's ``VisionTransformer``, so that two models differ in their
arguments and in nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

from timm.layers import LayerNorm, Mlp
from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn
from torch import nn

from kat.errors import check_choice
from kat.models.baseline_mlps import FixedMlp, SwiGLUMlp
from kat.nn import BSplineKANMlp, Scheme, init_attention_mimetic_, rational_parameter_names

ATTENTION_SCHEMES = ("mimetic", "trunc_normal")


class ViT(VisionTransformer):
    """A Vision Transformer: each block computes x + attn(norm(x)), then x + MLP(norm(x)).

    Args:
        mlp_init: initialization of the MLP's weights, see :func:`kat.nn.init_grkan_`; None for
            timm's, a truncated N(0, 0.02^2).
        attn_init: ``"mimetic"``, see :func:`kat.nn.init_attention_mimetic_`, or
            ``"trunc_normal"``, timm's. timm's ``fix_init`` does not scale mimetic attention.
        weight_init: timm's scheme for all other weights.
        mlp_layer: the class of the MLP, timm's by default, or one for each block; excludes
            ``mlp_init``.
        mlp_norm: False leaves out the norm before each MLP, to see what initialization alone does.
        norm_eps: epsilon of the norms; by default timm's, 1e-6. CLIP's ViTs have 1e-5.
        **kwargs: of timm's ``VisionTransformer``, e.g. ``act_layer="silu"``.

    Raises:
        ValueError: an unknown scheme, or both ``mlp_layer`` and ``mlp_init``.

    Examples:
        >>> import torch
        >>> from kat.models import ViT
        >>> model = ViT(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=4)
        >>> model(torch.randn(1, 3, 32, 32)).shape
        torch.Size([1, 1000])
    """

    pretrained_filter: ClassVar[Callable[..., Any]] = staticmethod(checkpoint_filter_fn)
    has_rationals = False

    def __init__(
        self,
        *,
        mlp_init: Scheme | None = None,
        attn_init: str = "trunc_normal",
        weight_init: Any = "",
        mlp_layer: Any = None,
        mlp_norm: bool = True,
        norm_eps: float | None = None,
        **kwargs: Any,
    ) -> None:
        check_choice("attn_init", attn_init, ATTENTION_SCHEMES)
        if self.has_rationals and kwargs.get("act_layer") is not None:
            raise ValueError("a KAT's activations are its rationals: give act_init, not act_layer")
        if mlp_layer is not None and mlp_init is not None:
            raise ValueError("mlp_init is for timm's MLP; give mlp_init or mlp_layer, not both")
        if mlp_layer is None:
            mlp_layer = Mlp if mlp_init is None else partial(FixedMlp, weight_init=mlp_init)
        if isinstance(mlp_layer, list):
            mlp_layer = _one_after_another(mlp_layer)
        if norm_eps is not None:
            kwargs["norm_layer"] = partial(kwargs.get("norm_layer") or LayerNorm, eps=norm_eps)
        super().__init__(mlp_layer=mlp_layer, weight_init="skip", **kwargs)
        self.attn_init = attn_init
        if not mlp_norm:
            for block in self.blocks:
                block.norm2 = nn.Identity()
        if weight_init != "skip":
            self.weight_init_mode = weight_init
            self.init_weights(needs_reset=False)

    def no_weight_decay(self) -> set[str]:
        """timm's names, and all coefficients: weight decay would pull F towards zero."""
        return super().no_weight_decay() | rational_parameter_names(self)

    def init_weights(self, mode: str = "", needs_reset: bool = True) -> None:
        """Initialize all weights: by timm's scheme, then the MLPs' own, then the attention's."""
        super().init_weights(mode, needs_reset)
        if self.attn_init == "mimetic":
            for block in self.blocks:
                attention: Any = block.attn
                init_attention_mimetic_(attention.qkv, attention.proj, attention.num_heads)


def _one_after_another(layers: list[Any]) -> Callable[..., nn.Module]:
    """Return a class of MLPs that is the next of ``layers`` each time; blocks are made in order."""
    rest = iter(layers)
    return lambda **kwargs: next(rest)(**kwargs)


class SwiGLUViT(ViT):
    """A Vision Transformer with SwiGLU MLPs of as many parameters as timm's.

    Args:
        mlp_init: initialization of their weights, see ``weight_init`` of :class:`SwiGLUMlp`.
        **kwargs: of :class:`ViT`.

    Examples:
        >>> from kat.models import SwiGLUViT
        >>> model = SwiGLUViT(img_size=32, patch_size=8, embed_dim=64, depth=1, num_heads=4)
        >>> type(model.blocks[0].mlp).__name__
        'SwiGLUMlp'
    """

    def __init__(self, *, mlp_init: Scheme | None = None, **kwargs: Any) -> None:
        super().__init__(mlp_layer=partial(SwiGLUMlp, weight_init=mlp_init), **kwargs)


class KANViT(ViT):
    """A Vision Transformer with two B-spline KAN layers in place of each MLP.

    Args:
        grid, order, grid_range: of the splines, see :class:`kat.nn.BSplineKANLinear`.
        kan_init: initialization of their weights, see ``weight_init`` there.
        **kwargs: of :class:`ViT`, except ``mlp_init``. With ``mlp_ratio=4 / (grid + order + 1)``
            the model has about as many parameters as :class:`ViT`.

    Examples:
        >>> import torch
        >>> from kat.models import KANViT
        >>> size = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 4}
        >>> model = KANViT(**size, mlp_ratio=4 / 9)
        >>> type(model.blocks[0].mlp).__name__
        'BSplineKANMlp'
    """

    def __init__(
        self,
        *,
        grid: int = 5,
        order: int = 3,
        grid_range: tuple[float, float] = (-3.0, 3.0),
        kan_init: str = "liu",
        **kwargs: Any,
    ) -> None:
        mlp_layer = partial(
            BSplineKANMlp, grid=grid, order=order, grid_range=grid_range, weight_init=kan_init
        )
        super().__init__(mlp_layer=mlp_layer, **kwargs)
