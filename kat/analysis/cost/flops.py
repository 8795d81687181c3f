"""Parameters and operations of a model, counted layer by layer."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from kat.models.dense import Detector


def _count_layer_norm(
    x: torch.Size, shape: Any, weight: torch.Size | None, bias: Any, eps: float, out_shape: Any
) -> int:
    return torch.Size(x).numel() * (4 if weight is None else 5)


@dataclass(frozen=True)
class Terms:
    """The operations of one forward pass, by kind.

    Args:
        weights: multiply-adds of products with weights (linear maps, convolutions).
        attention: multiply-adds of products of batches of matrices, as in attention.
        rational: FLOPs of rationals, 2m + 2n + 3 per element.
        norm: FLOPs of layer norms, 5 per element (mean, variance, normalization, scale, shift).
    """

    weights: int = 0
    attention: int = 0
    rational: int = 0
    norm: int = 0

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of all matrix products."""
        return self.weights + self.attention

    @property
    def flops(self) -> int:
        """Two for each multiply-add of a matrix product, plus the operations of rationals."""
        return 2 * self.multiply_adds + self.rational

    @property
    def paper(self) -> int:
        """The count of the paper's table of models, which was made with fvcore.

        One for each multiply-add of a product with weights, plus the operations of layer norms and
        rationals. The two products of attention are left out: fvcore does not know the fused
        kernel.
        """
        return self.weights + self.rational + self.norm


@dataclass(frozen=True)
class LayerCost:
    """The cost of one layer for one image, without the layers inside it.

    Args:
        name: within the model; empty for the model itself.
        kind: name of the class.
        input_shape, output_shape: for one image; None where the layer does not map a tensor to a
            tensor, or does not run.
        parameters: its own, without those shared with an earlier layer.
        terms: its operations.
    """

    name: str
    kind: str
    input_shape: tuple[int, ...] | None
    output_shape: tuple[int, ...] | None
    parameters: int
    terms: Terms


@dataclass(frozen=True)
class Cost:
    """The cost of a model for one image.

    Args:
        layers: in the order of the model.

    Examples:
        >>> import kat
        >>> from kat.analysis import count
        >>> cost = count(kat.models.create_model("kat_micro"), (3, 32, 32))
        >>> cost.parameters, cost.multiply_adds
        (208378, 15139968)
    """

    layers: tuple[LayerCost, ...]

    @property
    def parameters(self) -> int:
        """The number of parameters, frozen ones included."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def terms(self) -> Terms:
        """The operations by kind."""
        terms: Counter[str] = Counter()
        for layer in self.layers:
            terms.update(vars(layer.terms))
        return Terms(**terms)

    @property
    def multiply_adds(self) -> int:
        """The multiply-adds of the matrix products in a forward pass."""
        return self.terms.multiply_adds

    @property
    def flops(self) -> int:
        """The floating-point operations of a forward pass.

        Two for each multiply-add of a matrix product, 2m + 2n + 3 for each element of a rational.
        As usual, other elementwise operations do not count.
        """
        return self.terms.flops


def count(model: nn.Module, input_size: tuple[int, ...]) -> Cost:
    """Count the operations of a forward pass over one image, on the meta device: none is computed.

    Args:
        model: takes (1, *input_size); for detectors, see :class:`FixedBoxes`.
        input_size: (C, H, W) of an image; any shape, for other models.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.analysis import count
        >>> cost = count(kat.GRKANLinear(64, 10), (64,))
        >>> cost.parameters, cost.flops
        (688, 2624)
    """
    ghost = deepcopy(countable(model)).to("meta").eval()
    shapes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}

    def called(name: str, x: Tensor, y: Tensor) -> None:
        shapes[name] = tuple(x.shape[1:]), tuple(y.shape[1:])

    formulas = {torch.ops.aten.native_layer_norm: _count_layer_norm}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    with torch.no_grad(), counter:
        image = torch.empty((1, *input_size), device="meta")
        counts = run_by_layer(ghost, image, lambda: _read(counter), called)
    own: Counter[str] = Counter()  # parameters that no earlier module has
    for name, parameter in model.named_parameters():
        own[name.rpartition(".")[0]] += parameter.numel()
    found = []
    for name, module in model.named_modules():
        x, y = shapes.get(name, (None, None))
        terms = Terms(**counts.get(name, Counter()))
        found.append(LayerCost(name, type(module).__name__, x, y, own[name], terms))
    return Cost(tuple(found))


def _read(counter: FlopCounterMode) -> Counter[str]:
    """Return the counts so far, by the names of :class:`Terms`."""
    terms: Counter[str] = Counter()
    for operator, flops in counter.get_flop_counts().get("Global", {}).items():
        name = str(operator)
        if name.startswith("kat."):
            terms["rational"] += flops
        elif name == "aten.native_layer_norm":
            terms["norm"] += flops
        else:
            batched = "bmm" in name or "scaled_dot_product" in name
            terms["attention" if batched else "weights"] += flops // 2
    return terms


def run_by_layer(
    model: nn.Module,
    x: Tensor,
    read: Callable[[], Counter[str]],
    called: Callable[[str, Tensor, Tensor], None] = lambda name, x, y: None,
) -> dict[str, Counter[str]]:
    """Run a model, and attribute the growth of counters to layers, not to those around them.

    The hooks are global: hooks on the modules of a GR-KAN layer would keep it from running in
    blocks of rows.

    Args:
        model: takes x.
        x: its input.
        read: returns counters that grow as the model runs.
        called: called for every layer that maps a tensor to a tensor, with its name, input, output.

    Returns:
        By name of the layer, ``""`` for the model itself, how much the counters grew while it was
        the innermost layer that ran.
    """
    names = {module: name for name, module in model.named_modules()}
    running = [""]
    grown: dict[str, Counter[str]] = defaultdict(Counter)
    last = read()

    def settle() -> None:
        nonlocal last
        now = read()
        grown[running[-1]] += now - last
        last = now

    def enter(module: nn.Module, inputs: Any) -> None:
        settle()
        running.append(names.get(module, running[-1]))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        settle()
        name = running.pop()
        if inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            called(name, inputs[0], output)

    hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        model(x)
    finally:
        for hook in hooks:
            hook.remove()
    settle()
    return dict(grown)


def countable(model: nn.Module) -> nn.Module:
    """Return the model, or in place of a detector its layers as a model from images to a tensor."""
    return FixedBoxes(model) if isinstance(model, Detector) else model


class FixedBoxes(nn.Module):
    """The layers of a detector with the most boxes that it can have, whatever the images show.

    For each image in evaluation, all proposals that are kept pass through the box head, and all
    detections through the mask head (1000 and 100 by torchvision's defaults); in training, all
    boxes that are sampled, and the share of them that may be objects (512 and 128).

    Args:
        detector: whose layers keep their names.
    """

    rpn: Any
    roi_heads: Any

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.backbone, self.rpn = detector.backbone, detector.rpn
        self.roi_heads = detector.roi_heads

    def forward(self, images: Tensor) -> Tensor:
        """Return the finest feature map of images (B, C, H, W)."""
        maps = self.backbone(images)
        self.rpn.head(maps)
        heads = self.roi_heads
        boxes, masks = (len(images) * count for count in self._counts())
        channels = self.backbone.out_channels
        box = maps[0].new_zeros((boxes, channels, *heads.box_roi_pool.output_size))
        heads.box_predictor(heads.box_head(box))
        if heads.has_mask():
            mask = maps[0].new_zeros((masks, channels, *heads.mask_roi_pool.output_size))
            heads.mask_predictor(heads.mask_head(mask))
        return maps[0]

    def _counts(self) -> tuple[int, int]:
        sampler = self.roi_heads.fg_bg_sampler
        if self.training:
            boxes = sampler.batch_size_per_image
            return boxes, int(boxes * sampler.positive_fraction)
        return self.rpn.post_nms_top_n(), self.roi_heads.detections_per_img
