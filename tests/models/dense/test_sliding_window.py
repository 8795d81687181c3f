"""Inference in sliding windows, at several scales, mirrored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from kat.errors import InputError
from kat.models.dense import (
    SlidingWindowConfig,
    predicted_classes,
    resized_strips,
    sliding_window_inference,
)
from kat.models.dense.sliding_window import window_spans


class Local(nn.Module):
    """Logits that depend on their own pixel only: windows change nothing."""

    def forward(self, images):
        return torch.cat([images, -images[:, :1]], 1)


class Place(nn.Module):
    """Logits that depend on the column in the input."""

    def forward(self, images):
        batch, _, height, width = images.shape
        ramp = torch.arange(width, dtype=torch.float32).expand(batch, 1, height, width)
        return torch.cat([ramp, torch.zeros_like(ramp)], 1)


@pytest.mark.parametrize(
    ("length", "window", "stride", "starts"),
    [
        (10, 4, 3, [0, 3, 6]),
        (10, 4, 4, [0, 4, 6]),
        (4, 4, 2, [0]),
        (3, 4, 4, [0]),
        (5, 4, 4, [0, 1]),
    ],
)
def test_windows_cover_the_length_and_end_with_it(length, window, stride, starts):
    found = list(window_spans(length, window, stride))
    assert [span.start for span in found] == starts
    assert {index for span in found for index in range(length)[span]} == set(range(length))
    assert all(len(range(length)[span]) == min(window, length) for span in found)


def test_windows_change_nothing_if_the_model_is_local():
    image = torch.randn(3, 13, 9)
    whole = sliding_window_inference(Local(), image)
    torch.testing.assert_close(whole, Local()(image[None])[0].softmax(0))
    for config in (SlidingWindowConfig(window=5, stride=2), SlidingWindowConfig(flip=True)):
        torch.testing.assert_close(sliding_window_inference(Local(), image, config), whole)


def test_overlapping_windows_average_their_logits():
    image = torch.zeros(1, 1, 6)
    given = sliding_window_inference(Place(), image, SlidingWindowConfig(window=4, stride=2))
    # columns 0, 1: in the first window only; 2, 3: 2, 3 there, 0, 1 in the second; 4, 5: 2, 3
    logits = torch.tensor([0, 1, 1, 2, 2, 3.0])
    torch.testing.assert_close(given[0, 0], logits.sigmoid())


def test_the_mirror_image_is_mirrored_back_and_averaged():
    image = torch.zeros(1, 1, 4)
    given = sliding_window_inference(Place(), image, SlidingWindowConfig(flip=True))
    ramp = torch.arange(4.0)
    torch.testing.assert_close(given[0, 0], (ramp.sigmoid() + ramp.flip(0).sigmoid()) / 2)


def test_each_scale_is_seen_at_its_size():
    seen = []

    class Watching(Local):
        def forward(self, images):
            seen.append(tuple(images.shape[-2:]))
            return super().forward(images)

    probabilities = sliding_window_inference(
        Watching(), torch.randn(3, 8, 12), SlidingWindowConfig(scales=(0.5, 1.0, 1.5))
    )
    assert seen == [(4, 6), (8, 12), (12, 18)]
    assert probabilities.shape == (4, 8, 12)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(8, 12))


@pytest.mark.parametrize("size", [(21, 34), (3, 5), (7, 9), (7, 30)])
def test_strips_are_rows_of_the_whole(size, monkeypatch):
    monkeypatch.setattr("kat.models.dense.sliding_window.STRIP_ELEMENTS", 5 * size[1] * 2)
    probabilities = torch.randn(5, 7, 9)
    whole = functional.interpolate(probabilities[None], size, mode="bilinear")[0]
    found = list(resized_strips(probabilities, size))
    assert len(found) == -(-size[0] // 2)
    assert torch.cat([torch.arange(size[0])[rows] for rows, _ in found]).tolist() == list(
        range(size[0])
    )
    torch.testing.assert_close(torch.cat([part for _, part in found], 1), whole)
    assert torch.equal(predicted_classes(probabilities, size), whole.argmax(0))


@pytest.mark.parametrize("settings", [{"window": 32, "stride": 40}, {"stride": 4}])
def test_settings_that_leave_pixels_out_are_refused(settings):
    with pytest.raises(InputError, match="stride must"):
        sliding_window_inference(Local(), torch.randn(3, 96, 96), SlidingWindowConfig(**settings))
