"""Attention over a grid of tokens, global or in windows, with decomposed relative positions."""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from kat.models.dense.image_sizes import at_most


class GridAttention(nn.Module):
    """softmax(q_i . k_j / sqrt(d) + q_i . H[y_i - y_j] + q_i . W[x_i - x_j]) V over windows.

    The projections belong to a block of a Vision Transformer. This module only has the
    embeddings of the offsets, ``rel_pos_h`` and ``rel_pos_w``, initially zero. Windows that extend
    beyond the grid are padded, and padded tokens are masked.

    Args:
        head_dim: d.
        window: side of the windows in tokens; 0 for global attention.
        reach: (rows, columns) of the largest grid for whose offsets there are embeddings; a larger
            grid interpolates them. None for no relative positions.

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
        """Attention over (B, H, W, C), with the projections of a block's attention module."""
        batch, height, width, _ = x.shape
        rows, columns, mask = height, width, None
        if self.window:
            rows, columns = at_most(height, self.window), at_most(width, self.window)
            mask = _mask(x, rows, columns)
        y = self._attend(split_windows(x, rows, columns), projections, mask)
        return join_windows(y, batch, height, width)

    def _attend(self, x: Tensor, attention: Attention, mask: Tensor | None) -> Tensor:
        count, rows, columns, _ = x.shape
        heads, size = attention.num_heads, attention.head_dim
        qkv = attention.qkv(x).view(count, rows * columns, 3, heads, size)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        query, key = attention.q_norm(query), attention.k_norm(key)
        if self.has_positions:
            tables = (self.rel_pos_h, self.rel_pos_w)
            query, key = with_offset_terms(query, key, tables, (rows, columns), attention.scale)
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


def with_offset_terms(
    query: Tensor, key: Tensor, tables: tuple[Tensor, Tensor], size: tuple[int, int], scale: float
) -> tuple[Tensor, Tensor]:
    """Extend queries and keys so that their product, times the scale, contains the offset terms.

    A query is extended by its terms for each row and each column, a key by the one-hot encodings of
    its row and its column; no (HW, HW) bias is formed. Both are padded with zeros to a multiple of
    8, which CUDA's memory-efficient kernel requires in half precision.

    Args:
        query, key: (B, heads, HW, d).
        tables: embeddings of the vertical and the horizontal offsets, (2 n - 1, d) each.
        size: H and W.
        scale: the scale of the attention.
    """
    rows, columns = size
    grid = query.unflatten(2, size) / scale
    by_row = torch.einsum("bnhwd,hkd->bnhwk", grid, _by_pair(tables[0], rows))
    by_column = torch.einsum("bnhwd,wkd->bnhwk", grid, _by_pair(tables[1], columns))
    row, column = (torch.eye(side, dtype=key.dtype, device=key.device) for side in size)
    row = row[:, None].expand(rows, columns, rows)
    column = column.expand(rows, columns, columns)
    place = torch.cat([row, column], -1).flatten(0, 1).expand(*key.shape[:2], -1, -1)
    terms = torch.cat([by_row, by_column], -1).flatten(2, 3)
    fill = (0, -(key.shape[-1] + rows + columns) % 8)
    return F.pad(torch.cat([query, terms], -1), fill), F.pad(torch.cat([key, place], -1), fill)


def offsets_of_grid(table: Tensor, size: int) -> Tensor:
    """(2 size - 1, d): the embeddings of the offsets in a grid of this side.

    They are the middle of a larger grid's table, or interpolated from a smaller grid's.
    """
    reach: Any = (table.shape[0] + 1) // 2
    if torch.jit.is_tracing():  # for grids of any side: a table of the same size stays as it is
        reach = torch.as_tensor(size).clamp(min=reach)
        table = F.interpolate(table.T[None], size=2 * reach - 1, mode="linear")[0].T
    elif size > reach:
        return F.interpolate(table.T[None], size=2 * size - 1, mode="linear")[0].T
    return table[reach - size : reach + size - 1]


def _by_pair(table: Tensor, size: int) -> Tensor:
    """(size, size, d): the embedding of the offset i - j."""
    table = offsets_of_grid(table, size)
    place = torch.arange(size, device=table.device)
    return table[place[:, None] - place + size - 1]


def split_windows(x: Tensor, rows: int, columns: int) -> Tensor:
    """Split (B, H, W, C) into windows (B n, rows, columns, C), zero beyond the edges."""
    height, width, channels = x.shape[1:]
    x = F.pad(x, (0, 0, 0, -width % columns, 0, -height % rows))
    x = x.unflatten(2, (-1, columns)).unflatten(1, (-1, rows))
    return x.transpose(2, 3).reshape(-1, rows, columns, channels)


def join_windows(windows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Join the output of :func:`split_windows` to (B, H, W, C)."""
    rows, columns, channels = windows.shape[1:]
    down, across = (height + rows - 1) // rows, (width + columns - 1) // columns
    x = windows.view(batch, down, across, rows, columns, channels).transpose(2, 3)
    return x.reshape(batch, down * rows, across * columns, channels)[:, :height, :width]


def _mask(x: Tensor, rows: int, columns: int) -> Tensor | None:
    """(B n, 1, 1, rows columns): False for the padding of windows; None if there is no padding."""
    batch, height, width, _ = x.shape
    if not torch.jit.is_tracing() and height % rows == 0 and width % columns == 0:
        return None
    inside = torch.ones(1, height, width, 1, dtype=torch.bool, device=x.device)
    inside = split_windows(inside, rows, columns)
    return inside.flatten(1)[:, None, None].repeat(batch, 1, 1, 1)
