"""How operators are registered with torch, and the short eager path to the same kernels.

Each operator is registered with ``torch.library``, with a kernel for each backend's device type.
Where a device has no kernel, or the kernel does not support the arguments, the reference runs. In
either case only the inputs are kept for the backward pass.

An operator registered from Python costs tens of microseconds a training step in dispatch alone, as
much as the kernel itself takes on a small layer. So plain tensors, where nothing observes or
rewrites operators, go to the kernel directly. The arithmetic is the same on both paths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from kat.ops.arguments import check_impl
from kat.ops.torch_internals import (
    in_function_transform,
    is_plain_eager,
    is_profiling,
    refuse_forward_mode,
)

Function = Callable[..., Any]

KERNELS: dict[str, dict[str, Function]] = {}
"""By device type and operator: the function that runs below autograd."""
_GRADIENTS: dict[str, Function] = {}
"""By operator: its gradients, of a context and the gradient of its output."""


def define_operator(
    name: str,
    inputs: str,
    outputs: str,
    *,
    kernel_of: Callable[[Any], Function],
    on_reference: Function,
    fake: Function,
    backends: Iterable[Any],
) -> None:
    """Registers ``kat::NAME``.

    Args:
        name: of the operator; its backward operators begin with the same name.
        inputs: their schema, tensors first, among them x, numerator and denominator.
        outputs: their schema.
        kernel_of: the function of a backend, which has ``DEVICE_TYPE`` and ``supports(x, numerator,
            denominator)``.
        on_reference: what runs where no kernel does.
        fake: the outputs' shapes and dtypes.
        backends: the modules.
    """
    names = [argument.split()[1] for argument in inputs.split(", ")]
    public = name.partition("_backward")[0]
    at = [names.index(tensor) for tensor in ("x", "numerator", "denominator")]

    def run_reference(*arguments: Any) -> Any:
        refuse_forward_mode(public)
        return on_reference(*arguments)

    torch.library.define(
        f"kat::{name}", f"({inputs}) -> {outputs}", tags=(torch.Tag.pt2_compliant_tag,)
    )
    torch.library.impl(f"kat::{name}", "CompositeExplicitAutograd", run_reference)
    torch.library.register_fake(f"kat::{name}", fake)
    for backend in backends:
        kernel = kernel_or_reference(backend, kernel_of(backend), run_reference, public, at)
        KERNELS.setdefault(backend.DEVICE_TYPE, {})[name] = kernel
        torch.library.impl(f"kat::{name}", backend.DEVICE_TYPE.upper(), kernel)


class Pass(NamedTuple):
    """A pass of an operator; arguments as of :func:`define_operator`."""

    kernel_of: Callable[[Any], Function]
    on_reference: Function
    fake: Function


def define_passes(
    name: str,
    inputs: str,
    gradients: int,
    *,
    forward: Pass,
    backward: Pass,
    recompute: Pass,
    backends: Iterable[Any],
) -> None:
    """Registers ``kat::NAME``, ``NAME_backward`` and ``NAME_backward_recompute``.

    Args:
        name: of the operator, which has one output.
        inputs: its schema.
        gradients: how many of the inputs are tensors. The backward pass returns theirs.
        forward, backward: the passes; ``backward`` gets the gradient of the output first.
        recompute: as ``backward``, and returns the output too.
        backends: the modules.
    """
    tensors = ", ".join(["Tensor"] * gradients)
    of_grad = f"Tensor grad, {inputs}"
    for suffix, schema, outputs, each in (
        ("", inputs, "Tensor", forward),
        ("_backward", of_grad, f"({tensors})", backward),
        ("_backward_recompute", of_grad, f"({tensors}, Tensor)", recompute),
    ):
        define_operator(f"{name}{suffix}", schema, outputs, **each._asdict(), backends=backends)


def kernel_or_reference(
    backend: Any, kernel: Function, on_reference: Function, name: str, at: list[int]
) -> Function:
    """The kernel for the arguments that the backend supports, the reference for all others.

    Args:
        backend: what decides by ``supports``.
        kernel, on_reference: functions of the same arguments.
        name: of the operator, for an error in forward-mode AD.
        at: where x, numerator and denominator stand among the arguments.
    """
    of_x, of_numerator, of_denominator = at

    def run(*arguments: Any) -> Any:
        refuse_forward_mode(name)
        x = arguments[of_x]
        if backend.supports(x, arguments[of_numerator], arguments[of_denominator]):
            return kernel(*arguments)
        return on_reference(*arguments)

    return run


def define_gradients(name: str, gradients: Function) -> None:
    """Registers the gradients of ``kat::NAME``.

    Args:
        name: of the operator.
        gradients: of a context with ``saved_tensors``, the operator's tensors, and ``options``, its
            other arguments, and of the gradients of its outputs. Returns those of the tensors.
    """

    def of_all_inputs(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return *gradients(ctx, *grads), *[None] * len(ctx.options)

    _GRADIENTS[name] = of_all_inputs
    torch.library.register_autograd(f"kat::{name}", of_all_inputs, setup_context=_save)


def define_second_order(name: str, formula: Function) -> None:
    """Registers the derivatives of ``kat::NAME``, a backward operator, by those of a formula.

    Args:
        name: of the operator.
        formula: its outputs, of differentiable operations of its tensors and options.
    """

    def gradients(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        def of_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
            outputs: tuple[Tensor, ...] = formula(*tensors, *ctx.options)
            return outputs

        outputs, pullback, *_ = torch.func.vjp(of_tensors, *ctx.saved_tensors)
        found: tuple[Tensor, ...] = pullback(grads[: len(outputs)])
        return found

    define_gradients(name, gradients)


def requested_backend(impl: str, backends: Mapping[str, Any]) -> Any:
    """The backend that ``impl=`` names.

    Raises:
        InputError: an unknown name.
        RuntimeError: inside a ``torch.func`` transform or forward-mode AD no kernel works.
    """
    check_impl(impl)
    if in_function_transform():
        raise RuntimeError(
            f"impl={impl!r} does not work inside torch.func transforms and forward-mode AD; use"
            " impl='reference', or None, which picks it there"
        )
    return backends[impl]


def recorded_call(function: Function, inputs: Sequence[Any], options: dict[str, Any]) -> Any:
    """The call of a public function as ``torch.fx`` records it: one call, and no look into it.

    Returns:
        The proxy of its result, or None if none of the inputs is a proxy.
    """
    for tensor in inputs:
        if isinstance(tensor, fx.Proxy):
            return tensor.tracer.create_proxy("call_function", function, tuple(inputs), options)
    return None


def run_operator(
    name: str, on_reference: Function, tensors: Sequence[Tensor], options: Sequence[Any]
) -> Any:
    """``kat::NAME``, differentiable: by the kernel of the device or the reference; no checks.

    Args:
        name: of the operator.
        on_reference: what runs under a ``torch.func`` transform, of tensors and options.
        tensors, options: the operator's arguments.
    """
    if in_function_transform():
        return on_reference(*tensors, *options)
    if not takes_short_path(*tensors):
        return getattr(torch.ops.kat, name).default(*tensors, *options)
    return short_path(name, *tensors, *options)


def run_backward(
    name: str, on_reference: Function, tensors: Sequence[Tensor], options: Sequence[Any]
) -> Any:
    """``kat::NAME``, a backward operator, differentiable again; arguments as :func:`run_operator`.

    A backward pass can itself be mapped or differentiated in forward mode
    (``is_grads_batched=True``, Hessian-vector products), even where the forward pass was not.
    """
    if in_function_transform():
        return on_reference(*tensors, *options)
    if torch.is_grad_enabled():
        return getattr(torch.ops.kat, name).default(*tensors, *options)
    return run_unrecorded(name, tensors, options)


def run_unrecorded(name: str, tensors: Sequence[Tensor], options: Sequence[Any]) -> Any:
    """``kat::NAME`` where autograd records nothing; arguments as :func:`run_operator`."""
    if not takes_short_path(*tensors):
        return getattr(torch.ops.kat, name).default(*tensors, *options)
    return KERNELS[tensors[0].device.type][name](*tensors, *options)


def takes_short_path(x: Tensor, *others: Tensor) -> bool:
    """Whether the tensors may go to the kernel of their device without torch's dispatcher."""
    if not is_plain_eager(x, *others) or is_profiling() or in_function_transform():
        return False
    return x.device.type in KERNELS


def short_path(name: str, *inputs: Any) -> Any:
    """The operator on tensors that take the short path, differentiable where it has gradients."""
    if torch.is_grad_enabled():
        return _ShortPath.apply(name, *inputs)
    return KERNELS[inputs[0].device.type][name](*inputs)


class _ShortPath(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, name: str, *inputs: Any) -> Any:
        ctx.name = name
        _save(ctx, inputs)
        return KERNELS[inputs[0].device.type][name](*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, *_GRADIENTS[ctx.name](ctx, *grads)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any = None) -> None:
    count = sum(isinstance(value, Tensor) for value in inputs)
    ctx.save_for_backward(*inputs[:count])
    ctx.options = inputs[count:]
