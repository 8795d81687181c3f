"""The backbone of a dense model as a model of its own."""

from __future__ import annotations

from torch import Tensor, nn

from kat.errors import InputError
from kat.models.dense import DenseModel


class FeatureMaps(nn.Module):
    """Maps images (B, C, H, W) to ``stride_4`` (B, C', H / 4, W / 4), ``stride_8`` and so on.

    These are the outputs of the transformer with its pyramid or neck. They are in training or in
    evaluation mode, as the model is.

    Args:
        model: the dense model.

    Raises:
        InputError: another kind of model, or two maps of the same stride.

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
        if len(set(self.names)) < len(self.names):
            raise InputError(f"maps of the same stride have the same name: {', '.join(self.names)}")
        self.train(model.training)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The maps by name, finest first."""
        return dict(zip(self.names, self.backbone(images), strict=True))
