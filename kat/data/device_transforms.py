"""What is done to a batch on the device that trains: normalisation and random erasing."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from timm.data.random_erasing import RandomErasing
from torch import Tensor

from kat.data.seeds import ERASING, derived_seed, host_generators_kept, seed_all


class DevicePreparation:
    """(pixels / 255 - mean) / std, and random rectangles of noise.

    Bytes cross from the workers to the device, a quarter of the size of normalised numbers. Images
    that are numbers already are taken as prepared.

    Args:
        mean, std: of each channel.
        random_erasing: probability that an image loses a rectangle (Zhong et al. 2020).
    """

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], random_erasing: float = 0.0
    ) -> None:
        self.mean, self.std = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
        self.random_erasing = random_erasing

    def __call__(self, images: Tensor, seeds: Sequence[int] = ()) -> Tensor:
        """Prepares a batch.

        Args:
            images: (B, C, H, W), uint8, or prepared.
            seeds: what each image's rectangle is drawn from; without them none is.
        """
        if images.dtype != torch.uint8:
            return images
        self.mean, self.std = self.mean.to(images.device), self.std.to(images.device)
        prepared = images.float().div_(255).sub_(self.mean).div_(self.std)
        if self.random_erasing > 0 and seeds:
            self._erase(prepared, seeds)
        return prepared

    def _erase(self, images: Tensor, seeds: Sequence[int]) -> None:
        erase = RandomErasing(self.random_erasing, mode="pixel", device=str(images.device))
        with host_generators_kept():
            for image, seed in zip(images, seeds, strict=True):
                seed_all(derived_seed(ERASING, seed))
                erase(image)
