"""A Vision Transformer as a backbone for dense tasks: images of any size in, feature maps out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kat.errors import InputError
from kat.models.dense.attention import GridAttention
from kat.models.dense.image_sizes import Size, pad_to_patches, resized

_GLOBAL_BLOCKS = 4


class GridBlock(Block):
    """timm's block, which also runs over grids of tokens (B, H, W, C), several sizes in one call.

    Each block is called once in a pass, however many sizes there are. With FSDP a call gathers the
    weights of all ranks, so that all ranks need the same number of calls.
    """

    def forward(  # type: ignore[override]
        self, x: Any, attention: GridAttention | None = None, **kwargs: Any
    ) -> Any:
        """Return the tokens (B, N, C) as timm's block does, or with ``attention`` all grids."""
        if attention is None:
            return super().forward(x, **kwargs)
        return [self._on_grid(grid, attention) for grid in x]

    def _on_grid(self, x: Tensor, attention: GridAttention) -> Tensor:
        x = x + self.drop_path1(self.ls1(attention(self.norm1(x), self.attn)))
        return x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))


class DenseBackbone(nn.Module):
    """Computes feature maps (B, C, ceil(H / p), ceil(W / p)) of images of any size.

    Images are padded with zeros to whole patches. Attention is windowed in all blocks but the
    global ones, with decomposed relative positions (:class:`GridAttention`). The MLPs and
    everything else are the transformer's. Position embeddings are resampled to the grid of each
    image. As in ViTDet, class token, registers and classifier of the transformer are removed.

    The transformer keeps its names (``vit.blocks.0.mlp.fc1.weight``), so that
    :func:`kat.models.init_from_vit` initializes ``.vit`` from any KAT or ViT for classification.

    Args:
        vit: timm's Vision Transformer, or one of ours; it is modified.
        window: side of the windows in patches; 0 for global attention in all blocks.
        global_blocks: indices of the blocks with global attention; None for four, the last of
            each quarter.
        relative_position: whether attention has relative positions.
        out_blocks: indices of the blocks whose outputs are returned, each after the final norm;
            None for the last.

    Raises:
        InputError: the index of no block, or a transformer of other blocks than timm's ``Block``.

    Source: Li et al., Exploring Plain Vision Transformer Backbones for Object Detection,
    arXiv 2203.16527.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.models.dense import DenseBackbone
        >>> backbone = DenseBackbone(kat.models.create_model("kat_micro"), window=4)
        >>> [x.shape for x in backbone(torch.randn(1, 3, 60, 90))]
        [torch.Size([1, 64, 15, 23])]
    """

    def __init__(
        self,
        vit: VisionTransformer,
        *,
        window: int = 0,
        global_blocks: Sequence[int] | None = None,
        relative_position: bool = True,
        out_blocks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        blocks: list[Any] = list(vit.blocks)
        if any(type(b) is not Block or type(b.attn) is not Attention for b in blocks):
            raise InputError(
                f"{type(vit).__name__} cannot be a dense backbone, which needs timm's Block and"
                " Attention"
            )
        depth = len(blocks)
        if global_blocks is None:
            global_blocks = last_of_parts(depth, _GLOBAL_BLOCKS)
        self.out_blocks = [depth - 1] if out_blocks is None else list(out_blocks)
        if not {*global_blocks, *self.out_blocks} <= set(range(depth)):
            raise InputError(
                f"global_blocks and out_blocks must be from 0 to {depth - 1}, got"
                f" {list(global_blocks)} and {self.out_blocks}"
            )
        self.vit = keep_grid_only(vit)
        self.grad_checkpointing = False
        self.attention = nn.ModuleList()
        for index, block in enumerate(blocks):
            block.__class__ = GridBlock
            side = 0 if index in global_blocks else window
            reach: Size | None = None
            if relative_position:
                reach = (side, side) if side else vit.patch_embed.grid_size
            self.attention.append(GridAttention(block.attn.head_dim, side, reach))

    @property
    def patch(self) -> int:
        """The side of a patch in pixels, which is the stride of the maps."""
        return int(self.vit.patch_embed.patch_size[0])

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the maps of ``out_blocks`` of images (B, C, H, W), normalized."""
        return [one for (one,) in self.maps_of([images])]

    def maps_of(self, batches: Iterable[Tensor]) -> list[list[Tensor]]:
        """Return for each of ``out_blocks`` the maps of batches, which may differ in size."""
        grids = [self._embedded(images) for images in batches]
        maps: dict[int, list[Tensor]] = {}
        for index, block in enumerate(self.vit.blocks):
            attention = self.attention[index]
            if self.grad_checkpointing and self.training:
                grids = checkpoint(block, grids, attention, use_reentrant=False)
            else:
                grids = block(grids, attention)
            if index in self.out_blocks:
                maps[index] = [self.vit.norm(x).permute(0, 3, 1, 2) for x in grids]
        return [maps[index] for index in self.out_blocks]

    def _embedded(self, images: Tensor) -> Tensor:
        """Return the tokens of images, with positions: (B, H, W, C)."""
        vit = self.vit
        x = vit.patch_embed.proj(pad_to_patches(images, self.patch)).permute(0, 2, 3, 1)
        return vit.norm_pre(vit.pos_drop(self._add_positions(vit.patch_embed.norm(x))))

    def _add_positions(self, x: Tensor) -> Tensor:
        positions, size = self.vit.pos_embed, (x.shape[1], x.shape[2])
        if positions is None:
            return x
        grid = self.vit.patch_embed.grid_size
        maps = positions.unflatten(1, grid)
        if torch.jit.is_tracing() or size != tuple(grid):
            maps = resized(maps.float().permute(0, 3, 1, 2), size, "bicubic").permute(0, 2, 3, 1)
        return x + maps.to(positions.dtype)


def last_of_parts(depth: int, parts: int) -> list[int]:
    """Return the last block of each of several equal parts; every block if there are few."""
    return sorted({max(part * depth // parts - 1, 0) for part in range(1, parts + 1)})


def keep_grid_only(vit: VisionTransformer) -> VisionTransformer:
    """Remove prefix tokens, pooling and classifier of a transformer, in place.

    A norm after the pooling becomes the final norm of each token.
    """
    if vit.pos_embed is not None and not vit.no_embed_class:
        positions = vit.pos_embed.detach()[:, vit.num_prefix_tokens :].clone()
        vit.pos_embed = nn.Parameter(positions, requires_grad=vit.pos_embed.requires_grad)
    for name in ("cls_token", "reg_token", "attn_pool"):
        setattr(vit, name, None)
    vit.num_prefix_tokens = vit.num_reg_tokens = 0
    vit.has_class_token = False
    if isinstance(vit.norm, nn.Identity):
        vit.norm, vit.fc_norm = vit.fc_norm, nn.Identity()
    vit.head, vit.num_classes, vit.global_pool = nn.Identity(), 0, ""
    return vit
