"""Other forms of a model: for images of any size, or without its heads."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kat.errors import InputError
from kat.models import ModelRecord, build_model
from kat.models.dense import DenseModel


def make_resizable(model: nn.Module, record: ModelRecord) -> nn.Module:
    """Return the same model with ``dynamic_img_size=True``.

    It resamples its position embeddings.

    Raises:
        InputError: the architecture has no such option.

    Examples:
        >>> from pathlib import Path
        >>> import torch
        >>> from kat.deploy import make_resizable
        >>> from kat.models import load_model
        >>> model = make_resizable(*load_model(Path("runs/digits")))
        >>> model(torch.randn(1, 1, 16, 12)).shape
        torch.Size([1, 10])
    """
    if isinstance(model, DenseModel):
        raise InputError(f"{record.architecture} can be exported for one image size only")
    resizable = build_model(record, dynamic_img_size=True).to(next(model.parameters()))
    resizable.load_state_dict(model.state_dict())
    return resizable.eval()


def size_step(model: nn.Module) -> tuple[int, int] | None:
    """(height, width), of which the sides of images are multiples; None if the size is fixed."""
    if not getattr(model, "dynamic_img_size", False):
        return None
    patch_embed: Any = model.patch_embed
    return tuple(patch_embed.patch_size)


class FeatureMaps(nn.Module):
    """Maps images (B, C, H, W) to ``stride_4`` (B, C', H / 4, W / 4), ``stride_8`` and so on.

    These are the outputs of the transformer with its pyramid or neck. They are in training or in
    evaluation mode, as the model is.

    Args:
        model: the dense model.

    Raises:
        InputError: another kind of model.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.deploy import FeatureMaps
        >>> maps = FeatureMaps(kat.models.create_model("kat_upernet_micro", num_classes=2).eval())
        >>> for name, x in maps(torch.randn(1, 3, 64, 64)).items():
        ...     print(name, tuple(x.shape))
        stride_4 (1, 96, 16, 16)
        stride_8 (1, 96, 8, 8)
        stride_16 (1, 96, 4, 4)
        stride_32 (1, 96, 2, 2)
    """

    task = "features"

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        if not isinstance(model, DenseModel):
            raise InputError(
                "only detectors and segmentation models have a backbone to export; for a"
                " classifier use timm.create_model(..., features_only=True)"
            )
        self.backbone = model.backbone
        self.names = [f"stride_{stride:g}" for stride in self.backbone.strides]
        self.train(model.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the maps by name, finest first."""
        return dict(zip(self.names, self.backbone(images), strict=True))
