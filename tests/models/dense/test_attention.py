"""Attention over grids: windows, masks, and relative positions against pairs one by one."""

from __future__ import annotations

import math

import pytest
import torch
from timm.layers import Attention
from torch import nn

from kat.models.dense.attention import GridAttention


def test_padded_tokens_of_a_window_are_masked():
    """Windows of 5 on a grid of 8 by 7: the last has 3 rows and 2 columns."""
    torch.manual_seed(0)
    attention = Attention(16, num_heads=2, qkv_bias=True)
    nn.init.normal_(attention.qkv.bias)  # so that a padded token is not zero
    layer = GridAttention(8, 5, (5, 5))
    for table in layer.parameters():
        nn.init.normal_(table)
    x = torch.randn(2, 8, 7, 16)
    corner = layer(x[:, 5:, 5:], attention)
    torch.testing.assert_close(layer(x, attention)[:, 5:, 5:], corner)


def naive(x, attention: Attention, layer: GridAttention) -> torch.Tensor:
    """Attention over one window of (H, W, C), pair by pair."""
    height, width, channels = x.shape
    d = attention.head_dim
    places = [(row, column) for row in range(height) for column in range(width)]
    qkv = attention.qkv(x.reshape(-1, channels)).reshape(-1, 3, attention.num_heads, d)
    out = torch.zeros(len(places), attention.num_heads, d, dtype=x.dtype)
    center_h, center_w = len(layer.rel_pos_h) // 2, len(layer.rel_pos_w) // 2
    for head in range(attention.num_heads):
        query, key, value = (qkv[:, which, head] for which in range(3))
        for i, (y, z) in enumerate(places):
            logits = torch.stack(
                [
                    query[i] @ key[j] / math.sqrt(d)
                    + query[i] @ layer.rel_pos_h[center_h + y - u]
                    + query[i] @ layer.rel_pos_w[center_w + z - v]
                    for j, (u, v) in enumerate(places)
                ]
            )
            out[i, head] = logits.softmax(0) @ value
    return attention.proj(out.reshape(height, width, channels))


@pytest.mark.parametrize("size", [(4, 5), (3, 2)])
def test_relative_positions_against_pairs_in_float64(size):
    torch.manual_seed(0)
    attention = Attention(24, num_heads=3, qkv_bias=True).double()
    layer = GridAttention(8, 0, (4, 5)).double()
    for table in layer.parameters():
        nn.init.normal_(table)
    x = torch.randn(2, *size, 24, dtype=torch.float64)
    expected = torch.stack([naive(one, attention, layer) for one in x])
    torch.testing.assert_close(layer(x, attention), expected, rtol=1e-12, atol=1e-12)


def test_relative_positions_of_a_larger_grid_are_interpolated():
    torch.manual_seed(0)
    attention = Attention(8, num_heads=1)
    layer, large = GridAttention(8, 0, (4, 4)), GridAttention(8, 0, (8, 4))
    table = torch.randn(7, 8)
    layer.rel_pos_h.data = table
    for row in range(15):  # whose center is at this place of the 7
        place = min(max((row + 0.5) * 7 / 15 - 0.5, 0), 6)
        low, share = math.floor(place), place % 1
        large.rel_pos_h.data[row] = (1 - share) * table[low] + share * table[min(low + 1, 6)]
    x = torch.randn(1, 8, 4, 8)
    torch.testing.assert_close(layer(x, attention), large(x, attention))
