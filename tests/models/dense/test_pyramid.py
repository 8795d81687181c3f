"""The necks: strides, shapes, and alignment."""

from __future__ import annotations

import pytest
import torch

from kat.models.dense import MultiLevel, SimpleFeaturePyramid


def test_strides_and_shapes_of_the_simple_pyramid():
    pyramid = SimpleFeaturePyramid(width=32, patch=16, channels=8)
    assert pyramid.strides == [4, 8, 16, 32, 64]
    maps = pyramid([torch.randn(2, 32, 7, 6)])
    assert [tuple(x.shape) for x in maps] == [
        (2, 8, 28, 24), (2, 8, 14, 12), (2, 8, 7, 6), (2, 8, 4, 3), (2, 8, 2, 2),
    ]  # fmt: skip
    assert torch.equal(maps[4], maps[3][:, :, ::2, ::2])


def test_other_patches_have_other_strides():
    assert SimpleFeaturePyramid(32, patch=8, scales=(2, 1)).strides == [4, 8, 16]
    assert MultiLevel(32, patch=8).strides == [2, 4, 8, 16]


def test_the_levels_of_several_blocks_each_have_their_own():
    neck = MultiLevel(width=32, patch=16)
    maps = [torch.randn(1, 32, 5, 4) for _ in range(4)]
    found = neck(maps)
    assert [tuple(x.shape[2:]) for x in found] == [(20, 16), (10, 8), (5, 4), (3, 2)]
    assert torch.equal(found[2], maps[2])
    with pytest.raises(ValueError, match="shorter"):
        neck(maps[:3])


@pytest.mark.parametrize("neck", [SimpleFeaturePyramid(32, 16, 8), MultiLevel(32, 16)])
def test_a_patch_keeps_its_place_at_every_stride(neck):
    """The influence of one token on a map lies around its own pixels."""
    x = torch.randn(1, 32, 8, 8)
    other = x.clone()
    other[:, :, 5, 2] += 1
    for before, after, stride in zip(neck([x] * 4), neck([other] * 4), neck.strides, strict=True):
        moved = (before - after).abs().sum(1)[0] > 1e-6
        rows, columns = (axis.float() for axis in moved.nonzero(as_tuple=True))
        for where, token in ((rows, 5), (columns, 2)):
            first, last = where.min() * stride / 16, (where.max() + 1) * stride / 16
            assert token - 2.1 * max(stride / 16, 1) <= first <= token
            assert token + 1 <= last <= token + 1 + 2.1 * max(stride / 16, 1)
