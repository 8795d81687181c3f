"""The names of the authors' ``katransformer.py``. It registers the models of kat with timm.

Source: https://github.com/Adamdad/kat
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from kat.compat.kat_rational import KAT_Group, preset_of
from kat.errors import InputError
from kat.extras import needed_by
from kat.nn import GRKANMlp

with needed_by("katransformer", "vision"):
    from timm.models import vision_transformer
    from timm.models.vision_transformer import LayerScale

    import kat.models.registered  # noqa: F401 (the authors' module registers its models)
    from kat.models import KAT

__all__ = ["KAN", "Attention", "KATVisionTransformer", "KAT_Group", "LayerScale"]


class KAN(GRKANMlp):
    """:class:`kat.GRKANMlp` with the authors' arguments, and the initial weights of ``nn.Linear``.

    Args:
        in_features, hidden_features, out_features: widths.
        act_layer: ignored, as in the authors' class.
        norm_layer, bias, drop: see :class:`kat.GRKANMlp`.
        act_init: the initial function of the second rational, one of :data:`kat.compat.MODES`.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int | None = None,
        out_features: int | None = None,
        act_layer: Any = KAT_Group,
        norm_layer: Callable[..., nn.Module] | None = None,
        bias: bool | tuple[bool, bool] = True,
        drop: float | tuple[float, float] = 0.0,
        *,
        act_init: str = "gelu",
    ) -> None:
        super().__init__(
            in_features,
            hidden_features,
            out_features,
            norm_layer=norm_layer,
            bias=bias,
            drop=drop,
            act_init=preset_of(act_init),
        )

    def init_weights(self) -> None:
        """Draw fc1 and fc2 again, as ``nn.Linear`` does."""
        self.fc1.reset_parameters()
        self.fc2.reset_parameters()


class Attention(vision_transformer.Attention):
    """timm's attention with the authors' order of arguments."""

    def __init__(
        self,
        dim: int,
        num_heads: int = 8,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: type[nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__(
            dim,
            num_heads,
            qkv_bias=qkv_bias,
            qk_norm=qk_norm,
            attn_drop=attn_drop,
            proj_drop=proj_drop,
            norm_layer=norm_layer,
        )


class KATVisionTransformer(KAT):
    """:class:`kat.models.KAT` with the authors' arguments and defaults.

    Args:
        act_init: the initial function of the second rationals, one of :data:`kat.compat.MODES`.
        weight_init: the authors' scheme. ``"kan"`` in it: the variance-preserving initialization
            of the MLPs, else a normal one of 0.02; ``"mimetic"``: the attention's.
        act_layer: ignored, as in the authors' class.
        mlp_layer: :class:`KAN`.
        **kwargs: of timm's ``VisionTransformer``.

    Raises:
        InputError: another ``mlp_layer``.
    """

    def __init__(
        self,
        *,
        act_init: str = "gelu",
        weight_init: str = "",
        act_layer: Any = None,
        mlp_layer: Any = KAN,
        **kwargs: Any,
    ) -> None:
        if mlp_layer not in (KAN, GRKANMlp):
            raise InputError(
                f"mlp_layer of KATVisionTransformer is KAN in kat.compat, not {mlp_layer}:"
                " kat.models.ViT takes any mlp_layer"
            )
        super().__init__(
            act_init=preset_of(act_init),
            mlp_init="variance_preserving" if "kan" in weight_init else "trunc_normal",
            attn_init="mimetic" if "mimetic" in weight_init else "trunc_normal",
            weight_init="" if "kan" in weight_init or "mimetic" in weight_init else weight_init,
            pool_include_prefix=kwargs.get("global_pool") == "map",  # as timm did then
            **kwargs,
        )
