"""Smaller and faster models for inference: constants computed once, weights in int8."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from kat.extras import needed_by
from kat.models.kanify.layers import DROPOUTS, named_children
from kat.nn import GroupRational
from kat.nn.rational import channels_at
from kat.ops import rational, reference
from kat.ops.arguments import Rational
from kat.ops.reference import horner
from kat.ops.torch_internals import is_patched, refuse_scripting

_REMOVED = (*DROPOUTS, DropPath)


class FrozenRational(nn.Module):
    """F(x) = P(x) / Q(x) of a trained :class:`kat.nn.GroupRational`, with |b_j| computed once.

    In eager mode it runs the kernel of x's device. While a graph is traced (``torch.compile``,
    ``torch.export``, ONNX) it is a dozen plain operations, which a compiler fuses and any runtime
    supports; there powers of |x| overflow from about 1e7 on.

    Args:
        source: the trained layer; its coefficients are copied.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.deploy import FrozenRational
        >>> act = kat.GroupRational(8)
        >>> x = torch.randn(4, 64)
        >>> torch.allclose(FrozenRational(act)(x), act(x))
        True
    """

    numerator: Tensor
    denominator: Tensor

    def __init__(self, source: GroupRational) -> None:
        super().__init__()
        self.form = source.form
        self.channel_dim = source.channel_dim
        denominator = source.weight_denominator.detach().clone()
        self.register_buffer("numerator", source.weight_numerator.detach().clone())
        self.register_buffer("denominator", denominator.abs() if self.form == "A" else denominator)

    def forward(self, x: Tensor) -> Tensor:
        """F(x), with x's shape and dtype."""
        dim = channels_at(x, self.channel_dim)
        x = x.movedim(dim, -1)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():
            f = Rational(self.numerator, self.denominator, self.form)
            y = reference.forward(f, x, value=_frozen_value)
        else:
            y = rational(x, self.numerator, self.denominator, form=self.form)
        return y.movedim(-1, dim)

    __prepare_scriptable__ = refuse_scripting


def _frozen_value(f: Rational, x: Tensor) -> Tensor:
    """F(x), in a dozen operations, for b_j >= 0 of form A and without derivatives."""
    s = x.abs() * horner(x.abs(), f.denominator)
    if f.form == "B":
        s = (x * horner(x, f.denominator)).abs()
    return horner(x, f.numerator) / (1 + s)


@torch.no_grad()
def freeze(model: nn.Module) -> nn.Module:
    """Return a copy for inference, with the same outputs up to rounding, and less to compute.

    No parameter of the copy trains.

    - Rationals have |b_j| precomputed and are plain operations in graphs (:class:`FrozenRational`).
    - Rationals that are the identity, such as act1 of a converted MLP before training, are removed.
    - Dropout and stochastic depth are removed.

    Weight and bias of a LayerNorm are kept: most are followed by a rational, with which they do not
    commute, and if a linear map follows, every runtime applies them within the pass of the norm, so
    that nothing would be saved. What is more than its formula is kept, too: a module with hooks, or
    of a class derived from :class:`kat.GroupRational` with a ``forward`` of its own.

    Args:
        model: any module with GR-KAN layers; it is not changed.

    Returns:
        The copy, in evaluation mode.

    Examples:
        >>> import torch
        >>> import kat
        >>> model = kat.models.create_model("kat_micro", depth=2).eval()
        >>> frozen = kat.deploy.freeze(model)
        >>> x = torch.randn(1, 3, 32, 32)
        >>> torch.allclose(frozen(x), model(x), atol=1e-5)
        True
        >>> frozen.blocks[0].mlp.act1, frozen.blocks[0].mlp.act2
        (Identity(), FrozenRational())
    """
    root = nn.Sequential(copy.deepcopy(model))
    frozen = {module: _frozen(module) for module in root.modules()}
    for parent in frozen:
        for name, child in named_children(parent).items():
            setattr(parent, name, frozen[child])
    return root.eval().requires_grad_(False)[0]


def _frozen(module: nn.Module) -> nn.Module:
    if type(module) in _REMOVED and not is_patched(module):
        return nn.Identity()
    if not isinstance(module, GroupRational) or is_patched(module):
        return module
    if type(module).forward is not GroupRational.forward:  # parametrized ones have another class
        return module
    return nn.Identity() if _is_identity(module) else FrozenRational(module)


def _is_identity(source: GroupRational) -> bool:
    """Return True if P(x) = x and Q(x) = 1 for every group, exactly."""
    x = torch.zeros_like(source.weight_numerator)
    x[:, 1] = 1
    return torch.equal(source.weight_numerator, x) and not source.weight_denominator.any()


@needed_by("int8")
def quantize_int8(model: nn.Module) -> nn.Module:
    """Return a copy with the weights of linear maps in int8.

    W_ij = s_i q_ij, with one float s_i a row. Activations and all arithmetic stay in float32:
    memory and files shrink, and no calibration is needed. Norms, embeddings and coefficients of
    rationals, a small part of the parameters, are left as they are. Uses torchao's
    ``Int8WeightOnlyConfig``.

    Args:
        model: a frozen model (:func:`kat.deploy.freeze`); it is not changed.

    Raises:
        InputError: torchao is not installed.

    Examples:
        >>> import kat
        >>> from kat.deploy import freeze, quantize_int8
        >>> model = kat.models.create_model("kat_micro", depth=1)
        >>> quantized = quantize_int8(freeze(model))
        >>> type(quantized.blocks[0].mlp.fc1.weight).__name__
        'Int8Tensor'
    """
    with quiet_import():
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
        from torchao.utils import unwrap_tensor_subclass
    quantized = copy.deepcopy(model)
    quantize_(quantized, Int8WeightOnlyConfig())
    return unwrap_tensor_subclass(quantized).requires_grad_(False)


@contextmanager
def quiet_import() -> Iterator[None]:
    """Hide torchao's warnings about its GPU libraries that this machine cannot load.

    transformers imports torchao, too.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
