"""What the dense models share: features of images of any size, and how they are trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kat.errors import InputError
from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.pyramid import MultiLevel, SimpleFeaturePyramid
from kat.models.dense.sizes import Size, by_size
from kat.models.kat import rational_parameter_names
from kat.models.vit import ViT

TRANSFORMER = "backbone.body.vit."
"""How the names of the transformer's weights begin."""
_DROPPED: dict[str, Any] = {"num_classes": 0, "class_token": False, "global_pool": ""}
"""The transformer's arguments by which it has no class token, pooling and classifier."""


class Features(nn.Module):
    """The maps of a transformer at several strides.

    Args:
        body: the transformer.
        neck: takes its maps to the strides.
    """

    def __init__(self, body: DenseBackbone, neck: SimpleFeaturePyramid | MultiLevel) -> None:
        super().__init__()
        self.body, self.neck = body, neck
        self.strides, self.out_channels = neck.strides, neck.out_channels

    def forward(self, images: Tensor, image_sizes: Sequence[Size] | None = None) -> list[Tensor]:
        """A map of each of ``strides``; the arguments are those of :class:`DenseBackbone`."""
        return by_size(
            lambda x: self.neck(self.body(x)), images, image_sizes, self.body.patch, self.strides
        )


def task_of(model: nn.Module) -> str:
    """What a model is for; a classifier says nothing."""
    return str(getattr(model, "task", "classification"))


class DenseModel(nn.Module):
    """A model for a dense task whose ``backbone`` is :class:`Features`, with timm's interface.

    Subclasses say of which class the transformer is, what task it is for, and how the names of the
    weights begin that have a part for each class.
    """

    transformer_class: type[ViT]
    task: str
    class_layers: ClassVar[tuple[str, ...]]
    num_classes: int
    backbone: Features

    @classmethod
    def make_vit(cls, img_size: int | Sequence[int], **kwargs: Any) -> ViT:
        """The transformer, with these arguments, and without what :class:`DenseBackbone` drops.

        Raises:
            InputError: arguments of what is dropped.
        """
        for name in _DROPPED:
            if name in kwargs:
                raise InputError(f"{name} is of a classifier: a backbone for dense tasks has none")
        return cls.transformer_class(img_size=img_size, **_DROPPED, **kwargs)

    @property
    def transformer(self) -> VisionTransformer:
        """The Vision Transformer, which weights of classification models fit."""
        return self.backbone.body.vit

    def set_image_size(self, side: int) -> None:
        """Has images seen at another size than ``img_size``, where the model itself scales them.

        Args:
            side: in pixels, of the square that stands for the size.
        """

    def get_classifier(self) -> nn.Module:
        """All that comes after the transformer: the neck and the heads."""
        own = [module for module in self.children() if module is not self.backbone]
        return nn.ModuleList([self.backbone.neck, *own])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Whether the transformer's blocks are computed again in the backward pass."""
        self.backbone.body.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """The names of position embeddings, relative positions and rational coefficients."""
        spared = {TRANSFORMER + name for name in self.transformer.no_weight_decay()}
        relative = {name for name, _ in self.named_parameters() if ".rel_pos_" in name}
        return spared | relative | rational_parameter_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of layers: embeddings, then the blocks; necks and heads come last."""
        vit = TRANSFORMER.replace(".", r"\.")
        blocks = r"^backbone\.body\.(?:vit\.blocks|attention)\.(\d+)"
        return {
            "stem": rf"^{vit}(?:pos_embed|patch_embed|norm_pre)",
            "blocks": [(blocks, None), (rf"^{vit}norm", (99999,))],
        }
