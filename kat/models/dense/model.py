"""Base of dense models: features of images of any size, and timm's interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from kat.models.dense.backbone import DenseBackbone
from kat.models.dense.image_sizes import Size, pad_to_patches
from kat.models.dense.pyramid import MultiLevel, SimpleFeaturePyramid
from kat.models.vit import ViT
from kat.nn import rational_parameter_names

TRANSFORMER = "backbone.body.vit."
"""The prefix of the transformer's parameters."""

_WITHOUT_CLASSIFIER: dict[str, Any] = {"num_classes": 0, "class_token": False, "global_pool": ""}
"""The transformer's arguments for no class token, pooling and classifier."""


class Features(nn.Module):
    """The feature maps of a transformer at several strides.

    Args:
        body: the transformer.
        neck: resamples its maps to the strides.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = kat.models.create_model("kat_upernet_micro", num_classes=2).eval()
        >>> [x.shape[-2:] for x in model.backbone(torch.randn(1, 3, 64, 64))]
        [torch.Size([16, 16]), torch.Size([8, 8]), torch.Size([4, 4]), torch.Size([2, 2])]
    """

    def __init__(self, body: DenseBackbone, neck: SimpleFeaturePyramid | MultiLevel) -> None:
        super().__init__()
        self.body, self.neck = body, neck
        self.strides, self.out_channels = neck.strides, neck.out_channels

    def forward(self, images: Tensor, image_sizes: Sequence[Size] | None = None) -> list[Tensor]:
        """Return the map of each of ``strides``, zero in the padding of images.

        Images of one size are cut to it and run together. So their maps depend neither on the
        amount of padding nor on the other images, and no time is spent on padding.

        Args:
            images: (B, C, H, W), normalized, each in the upper left corner.
            image_sizes: (height, width) of each image; None if none is padded.
        """
        canvas = tuple(int(side) for side in images.shape[-2:])  # tensors in a tracer
        groups: dict[Size, list[int]] = {}
        for index, (height, width) in enumerate(image_sizes or ()):
            groups.setdefault((height, width), []).append(index)
        if set(groups) <= {canvas}:
            return list(self.neck(self.body(images)))
        sides = pad_to_patches(images, self.body.patch).shape[-2:]
        maps: list[Tensor] = []
        batches = [images[members, :, :h, :w] for (h, w), members in groups.items()]
        for members, *found in zip(groups.values(), *self.body.maps_of(batches), strict=True):
            parts = self.neck(found)
            if not maps:
                for part, stride in zip(parts, self.strides, strict=True):
                    rows, columns = (math.ceil(side / stride) for side in sides)
                    maps.append(part.new_zeros(len(images), part.shape[1], rows, columns))
            for whole, part in zip(maps, parts, strict=True):
                whole[members, :, : part.shape[2], : part.shape[3]] = part
        return maps


class DenseModel(nn.Module):
    """A model for a dense task on a ``backbone`` of :class:`Features`, with timm's interface.

    Subclasses set the class of the transformer, the task, and ``class_layers``, the prefixes of
    the parameters that have a part for each class.

    Examples:
        >>> import kat
        >>> from kat.models.dense import DenseModel
        >>> model = kat.models.create_model("kat_det_micro", num_classes=3)
        >>> isinstance(model, DenseModel), model.task, type(model.transformer).__name__
        (True, 'detection', 'KAT')
    """

    transformer_class: type[ViT]
    task: str
    class_layers: ClassVar[tuple[str, ...]]
    num_classes: int
    backbone: Features

    @classmethod
    def make_vit(cls, img_size: int | Sequence[int], **kwargs: Any) -> ViT:
        """Build the transformer, without what :class:`DenseBackbone` removes."""
        return cls.transformer_class(img_size=img_size, **_WITHOUT_CLASSIFIER, **kwargs)

    @property
    def transformer(self) -> VisionTransformer:
        """The Vision Transformer, which can be initialized from classification models."""
        return self.backbone.body.vit

    @property
    def blocks(self) -> nn.Module:
        """The transformer's blocks, the units of FSDP: each is called once in a pass."""
        return self.transformer.blocks

    def set_image_size(self, side: int) -> None:
        """Set the size to which the model itself scales images, if it does.

        Args:
            side: in pixels, of a square of that size.
        """

    def get_classifier(self) -> nn.Module:
        """Return the neck and the heads: everything after the transformer."""
        own = [module for module in self.children() if module is not self.backbone]
        return nn.ModuleList([self.backbone.neck, *own])

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the transformer's blocks in the backward pass, or no longer."""
        self.backbone.body.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the names of position embeddings, relative positions and rational coefficients."""
        excluded = {TRANSFORMER + name for name in self.transformer.no_weight_decay()}
        relative = {name for name, _ in self.named_parameters() if ".rel_pos_" in name}
        return excluded | relative | rational_parameter_names(self)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of layers: embeddings, then blocks; necks and heads come last."""
        vit = TRANSFORMER.replace(".", r"\.")
        blocks = r"^backbone\.body\.(?:vit\.blocks|attention)\.(\d+)"
        return {
            "stem": rf"^{vit}(?:pos_embed|patch_embed|norm_pre)",
            "blocks": [(blocks, None), (rf"^{vit}norm", (99999,))],
        }
