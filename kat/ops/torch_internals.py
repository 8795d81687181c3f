"""Every private name of torch that kat uses, and one each of Python, transformers and timm.

They tell what is active around a call: modes, ``torch.func`` transforms, forward-mode AD, hooks;
one marks functions for the compiler. A release of torch may remove any of them. kat then asks in
another way, or takes what the name would report to be active: the results stay right, on a slower
path. Where timm's table of activations is gone, kat says what else to pass.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from multiprocessing.queues import Queue
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

from kat.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


def _assume_so() -> bool:
    return True


def _has_no_memory(tensor: Tensor) -> bool:
    """Return True if there is no storage (batches of gradients) or an empty one (lazy zeros)."""
    try:
        return tensor.data_ptr() == 0 and tensor.numel() > 0
    except RuntimeError:
        return True


_functorch = getattr(torch._C, "_functorch", None)
_active_transforms = getattr(_functorch, "get_interpreter_stack", None)
_may_be_batch_of_gradients = getattr(_functorch, "is_legacy_batchedtensor", _has_no_memory)
_is_zero_tensor = getattr(torch, "_is_zerotensor", _has_no_memory)
_dispatch_modes = getattr(torch._C, "_len_torch_dispatch_stack", _assume_so)
_function_modes = getattr(torch._C, "_len_torch_function_stack", None)
_function_mode_at = getattr(torch._C, "_get_function_stack_at", lambda index: None)
_profiler_enabled = getattr(torch.autograd, "_profiler_enabled", _assume_so)
_FakeTensor = getattr(getattr(torch, "_subclasses", None), "FakeTensor", ())


def is_eager(*tensors: Tensor | None) -> bool:
    """Return True if the tensors are ordinary, and nothing compiles, traces or rewrites operations.

    None stands for no tensor.

    Not ordinary are tensors that only the dispatcher makes right on the way to a kernel: batches of
    gradients (``is_grads_batched=True``) and lazy zeros, which have no memory, and lazily negated
    views, whose memory holds the wrong sign.
    """
    if torch.compiler.is_compiling() or _dispatch_modes() or _rewrites_functions():
        return False
    for tensor in tensors:
        if tensor is None:
            continue
        kind = type(tensor)
        if kind not in (Tensor, nn.Parameter) or tensor.is_neg():
            return False
        if kind is Tensor and (_is_zero_tensor(tensor) or _may_be_batch_of_gradients(tensor)):
            return False
    return not torch.jit.is_tracing()


def is_ordinary(*tensors: Tensor | None) -> bool:
    """Return True if the tensors may go to a kernel without torch's dispatcher.

    :func:`is_eager` holds, and neither a profiler, which should see every operator, nor a
    ``torch.func`` transform nor forward-mode AD is active.
    """
    return is_eager(*tensors) and not _profiler_enabled() and not in_function_transform()


def _rewrites_functions() -> bool:
    """Return True if a mode may change what torch's functions do.

    A default device is a mode too, but it only places new tensors that are given no device, and
    kat's own code gives each one.
    """
    if _function_modes is None:
        return True
    count = _function_modes()
    return count > 0 and not all(_is_default_device(_function_mode_at(i)) for i in range(count))


def _is_default_device(mode: Any) -> bool:
    devices = sys.modules.get("torch.utils._device")  # torch imports it with the first such mode
    return type(mode) is getattr(devices, "DeviceContext", None)


def has_values(tensor: Tensor) -> bool:
    """Return False for a tensor on the meta device or of ``FakeTensorMode``."""
    return not tensor.is_meta and not isinstance(tensor, _FakeTensor)


def is_exporting() -> bool:
    """Return True if ``torch.export`` or ``torch.jit.trace`` records a program for use elsewhere.

    A strict export silently drops the backward pass of an ``autograd.Function``.
    """
    return torch.compiler.is_exporting() or torch.jit.is_tracing()


def is_exporting_onnx() -> bool:
    """Return True if ``torch.onnx.export`` records a graph."""
    return is_exporting() and torch.onnx.is_in_onnx_export()


def constant_when_compiled(function: Function) -> Function:
    """Make compiled code take a function's result as a constant, instead of tracing the function.

    ``torch.compiler.assume_constant_result`` sets the same mark, but imports the compiler, which
    takes longer than torch itself. Where a torch ignores the mark, the function is traced.
    """
    vars(function)["_dynamo_marked_constant"] = True
    return function


@constant_when_compiled
def in_function_transform() -> bool:
    """Return True if a ``torch.func`` transform or forward-mode AD is active.

    The compiler enters the transforms in the code that it traces, and recompiles code that is
    called under another ``torch.func`` transform. So the result holds in compiled code as well.
    """
    return in_forward_mode() or _in_torch_func()


def in_vmap() -> bool:
    """Return True if tensors may stand for batches of tensors, whose values cannot be read."""
    if _active_transforms is None:
        return in_function_transform()
    return any(transform.key().name == "Vmap" for transform in _active_transforms() or ())


def in_forward_mode() -> bool:
    """Return True if forward-mode AD is active, by itself or under ``torch.func``."""
    level = getattr(forward_ad, "_current_level", None)
    if level is not None:
        return level >= 0
    try:  # raises where forward mode is off
        forward_ad.make_dual(torch.zeros(()), torch.zeros(()))
    except RuntimeError:
        return False
    return True


def refuse_forward_mode() -> None:
    """Raise an error where forward-mode AD is active.

    An operator that has only a backward formula would silently give zero tangents. A direct call
    of the operator, or code compiled before forward mode began, gets here.

    Raises:
        RuntimeError: forward-mode AD is active.
    """
    if in_forward_mode():
        raise RuntimeError(
            "the operator kat::rational has no forward-mode derivative; call"
            " kat.ops.rational(..., impl='reference'), which has all derivatives"
        )


def refuse_scripting(module: nn.Module) -> NoReturn:
    """Raise the error of ``torch.jit.script``, which calls ``__prepare_scriptable__`` of a module.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError(
        f"torch.jit.script does not take {type(module).__name__}, whose operators have no"
        " TorchScript: use torch.export, torch.jit.trace or kat.deploy.export_model"
    )


def is_patched(module: nn.Module) -> bool:
    """Return True if a call of the module may be more than the ``forward`` of its class.

    That is so if a hook is registered on it, or if the instance has a ``forward`` of its own, as
    accelerate gives modules one that moves their weights. Hooks on all modules do not count.
    """
    own = vars(module)
    try:  # a loop takes twice as long, in each call of each layer
        hooks = (
            own["_forward_hooks"]
            or own["_forward_pre_hooks"]
            or own["_backward_hooks"]
            or own["_backward_pre_hooks"]
        )
    except KeyError:
        return True
    return bool(hooks) or "forward" in own


def own_parameters(module: nn.Module) -> Mapping[str, Tensor | None] | None:
    """Return the parameters of a module by name, as they are at any later time; None if unknown."""
    return vars(module).get("_parameters")


def keep_from_transformers(module: nn.Module) -> None:
    """Mark a module as initialized: ``init_weights()`` of Hugging Face then leaves it as it is.

    A release of transformers that has lost the mark draws the weights again.
    """
    vars(module)["_is_hf_initialized"] = True


def is_loaded_by_transformers(parameter: Tensor) -> bool:
    """Return True in ``from_pretrained`` of a parameter whose values are in the checkpoint."""
    return getattr(parameter, "_is_hf_initialized", False)


def timm_activations() -> dict[str, Any]:
    """Return the table in which timm looks up activations by name.

    Raises:
        InputError: this release of timm has no such table.
    """
    create_act = importlib.import_module("timm.layers.create_act")
    table = getattr(create_act, "_ACT_LAYER_DEFAULT", None)
    if table is None:
        raise InputError("its table of names has moved; act_layer=kat.GroupRational needs none")
    return table


def when_sending_fails(handle: Callable[..., Any]) -> None:
    """Set what is called when the thread of a queue cannot send an item to another process.

    Python prints a traceback and drops the item, for which the other process may wait without end.
    It still does where a release of Python has lost the hook.
    """
    Queue._on_queue_feeder_error = staticmethod(handle)  # type: ignore[attr-defined]


def _in_torch_func() -> bool:
    if _active_transforms is not None:
        return _active_transforms() is not None
    try:  # raises under torch.func: it has no setup_context
        _Probe.apply()
    except RuntimeError:
        return True
    return False


class _Probe(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any) -> None:
        return None
