"""Attention over a grid of tokens: all of it or in windows, with decomposed relative positions."""

from __future__ import annotations

import math

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F


class GridAttention(nn.Module):
    """softmax(q_i . k_j / sqrt(d) + q_i . H[y_i - y_j] + q_i . W[x_i - x_j]) V over windows.

    The projections are those of a block of a Vision Transformer; this holds nothing but the
    vectors of the offsets, ``rel_pos_h`` and ``rel_pos_w``, which start at zero. Windows that reach
    over the edge are padded, and what is padded is not attended to.

    Args:
        head_dim: d.
        window: side of the windows in tokens; 0: one window, the grid.
        reach: (rows, columns) of the largest grid whose offsets have vectors of their own; those
            of a larger one are interpolated. None: no relative positions.

    Source: Li et al., ViTDet, arXiv 2203.16527; Li et al., MViTv2, arXiv 2112.01526.
    """

    def __init__(self, head_dim: int, window: int, reach: tuple[int, int] | None) -> None:
        super().__init__()
        self.window = window
        self.has_positions = reach is not None
        if reach is not None:
            rows, columns = reach
            self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, head_dim))
            self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, head_dim))

    def forward(self, x: Tensor, projections: Attention) -> Tensor:
        """(B, H, W, C) to the same, by timm's attention module of the block."""
        batch, height, width, _ = x.shape
        sides = self.sides(height, width)
        windows = split(x, *sides)
        y = self._attend(windows, projections, _mask(x, *sides))
        return join(y, batch, height, width)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """(rows, columns) of the windows on a grid: no more than it has."""
        return min(self.window or height, height), min(self.window or width, width)

    def _attend(self, x: Tensor, attention: Attention, mask: Tensor | None) -> Tensor:
        count, rows, columns, _ = x.shape
        heads, size = attention.num_heads, attention.head_dim
        qkv = attention.qkv(x).view(count, rows * columns, 3, heads, size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(query), attention.k_norm(key)
        if self.has_positions:
            query, key = self._with_offsets(query, key, (rows, columns), attention.scale)
        y = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            dropout_p=attention.attn_drop.p if self.training else 0.0,
            scale=attention.scale,
        )
        y = y.transpose(1, 2).reshape(count, rows, columns, heads * size)
        return attention.proj_drop(attention.proj(attention.norm(y)))

    def _with_offsets(
        self, query: Tensor, key: Tensor, size: tuple[int, int], scale: float
    ) -> tuple[Tensor, Tensor]:
        """Longer vectors whose product, times the scale, has the terms of the offsets in it.

        The query is extended by its terms for each row and each column, the key by which row and
        which column it is in: no (HW, HW) bias is ever made. Zeros fill both up to a multiple of 8,
        which CUDA's memory-efficient kernel wants in half precision.
        """
        rows, columns = size
        grid = query.unflatten(2, size) / scale
        by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, _vectors(self.rel_pos_h, rows))
        by_column = torch.einsum("bnhwd,wkd->bnhwk", grid, _vectors(self.rel_pos_w, columns))
        row = torch.eye(rows, dtype=key.dtype, device=key.device).repeat_interleave(columns, 0)
        column = torch.eye(columns, dtype=key.dtype, device=key.device).repeat(rows, 1)
        place = torch.cat([row, column], 1).expand(*key.shape[:2], -1, -1)
        terms = torch.cat([by_row, by_column], -1).flatten(2, 3)
        fill = (0, -(key.shape[-1] + rows + columns) % 8)
        return F.pad(torch.cat([query, terms], -1), fill), F.pad(torch.cat([key, place], -1), fill)


def offsets_of_grid(table: Tensor, size: int) -> Tensor:
    """(2 size - 1, d): the vectors of the offsets that a grid of this side has.

    They are cut out of a table of a larger grid, and interpolated from that of a smaller one.
    """
    reach = (len(table) + 1) // 2
    if size <= reach:
        return table[reach - size : reach + size - 1]
    return F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T


def _vectors(table: Tensor, size: int) -> Tensor:
    """(size, size, d): the vector of the offset i - j, of a table of offsets from -n to n."""
    table = offsets_of_grid(table, size)
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]


def split(x: Tensor, rows: int, columns: int) -> Tensor:
    """(B, H, W, C) to (B n, rows, columns, C): n windows an image, zeros beyond the edges."""
    height, width, channels = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
    x = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
    return x.transpose(2, 3).reshape(-1, rows, columns, channels)


def join(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """What :func:`split` made windows of: (B, H, W, C)."""
    rows, columns, channels = windows.shape[1:]
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    x = windows.view(batch, down, across, rows, columns, channels).transpose(2, 3)
    return x.reshape(batch, down * rows, across * columns, channels)[:, :height, :width]


def _mask(x: Tensor, rows: int, columns: int) -> Tensor | None:
    """(B n, 1, 1, rows columns): which tokens of each window are real; None where all are."""
    batch, height, width, _ = x.shape
    if height % rows == 0 and width % columns == 0:
        return None
    real = split(torch.ones(1, height, width, 1, dtype=torch.bool, device=x.device), rows, columns)
    return real.flatten(1)[:, None, None].repeat(batch, 1, 1, 1)
