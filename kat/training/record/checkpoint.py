"""The checkpoint of a run: everything that resumes it, in one file with its own checksum.

=================  ================================================================================
run_id             the id in run.yaml
record             the record of the model
state_dict         the weights that are validated and deployed: the EMA where there is one
raw_state_dict     the weights themselves, beside an EMA
ema_steps          steps that the EMA has taken
optimizer          its name, and the names of the parameters in each group
optimizer_state    its moments and the like
scaler             the state of the loss scaler in 16-mixed
state              a :class:`kat.training.record.state.TrainState`
train_loss         sum and count of this epoch so far, by rank
callbacks          the state of each callback, by its name
=================  ================================================================================

Sharded tensors are stored whole.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kat.errors import CheckpointFailed, InputError
from kat.files import link_or_copy, reason_of, replacing
from kat.models.checkpoints.checksum import write_checksum
from kat.nn.sharded import full_tensor, sharded_like
from kat.text import scaled
from kat.training.cluster.collectives import broadcast, gather
from kat.training.optim.optimizer import optimizer_layout
from kat.training.record.run import Run, map_tensors
from kat.training.record.run_directory import CHECKPOINTS_AT_ONCE, LAST, PREVIOUS, Checkpoint


def save_checkpoint(run: Run, path: Path) -> None:
    """Write the state of a run, whole or not at all; a collective.

    What was last.ckpt becomes previous.ckpt.

    Raises:
        CheckpointFailed: it cannot be written; in all ranks.
    """
    for callback in run.callbacks:
        callback.on_checkpoint(run)
    content = _content(run)
    failure = broadcast(_write(content, path) if run.is_first else "")
    if failure:
        raise CheckpointFailed(
            f"{failure}. Training stops, and the newest whole checkpoint is kept. Mend this, and"
            " continue with resume='auto' (--resume auto)"
        )


def _write(content: dict[str, Any], path: Path) -> str:
    """Write a checkpoint; return the reason if that fails."""
    try:
        with replacing(path) as partial:
            with partial.open("xb") as file:  # PyTorch's own file loses the system's reason
                torch.save(content, file)
            write_checksum(partial)
            if path.name == LAST and path.exists():
                link_or_copy(path, path.with_name(PREVIOUS))
    except (OSError, RuntimeError) as error:
        # PyTorch's own error follows the system's
        system = error if isinstance(error, OSError) else error.__context__
        return f"{path} cannot be written: {reason_of(system or error)}"
    return ""


def bytes_by_part(run: Run) -> dict[str, int]:
    """Return the bytes of weights, gradients, optimizer state and EMA, unsharded."""
    state = run.optimizer.state or _state_after_a_step(run.optimizer)
    moments = chain.from_iterable(entries.values() for entries in state.values())
    weights = _bytes([*run.model.parameters(), *run.model.buffers()])
    return {
        "weights": weights,
        "gradients": _bytes(p for p in run.model.parameters() if p.requires_grad),
        "optimizer": _bytes(moments),
        "ema": weights if run.ema else 0,
    }


def _state_after_a_step(optimizer: Any) -> dict[Any, dict[str, Any]]:
    """Return the state that the first step of an optimizer makes, as tensors without data.

    The state is empty for optimizers whose step reads values (AdamP, SGDP, NovoGrad, Kron), and for
    those that wrap another one.
    """
    groups = []
    for group in optimizer.param_groups:
        copies = [torch.empty(p.shape, dtype=p.dtype, device="meta") for p in group["params"]]
        for copy in copies:
            copy.grad = torch.empty_like(copy)
        groups.append({**group, "params": copies, "rational": False})  # no slopes are known of them
    with suppress(Exception):
        twin = type(optimizer)(groups)
        twin.step()
        return dict(twin.state)
    return {}


def _bytes(values: Iterable[object]) -> int:
    """Return the bytes of the tensors among these values."""
    return sum(t.numel() * t.element_size() for t in values if isinstance(t, Tensor))


def bytes_of_directory(size: Mapping[str, int]) -> int:
    """Return the bytes of a run directory at most, without logs, from the bytes of its parts."""
    return CHECKPOINTS_AT_ONCE * (sum(size.values()) - size["gradients"]) + size["weights"]


def check_disk(run: Run) -> int:
    """Check that the checkpoints fit on the disk, and return its free bytes.

    The checkpoints of a run that is overwritten count as free.

    Raises:
        InputError: they do not fit.
    """
    place = next(path for path in (run.out.absolute() / LAST).parents if path.exists())
    old = sum(path.stat().st_size for path in run.out.glob("*.ckpt"))
    needed, free = bytes_of_directory(bytes_by_part(run)), shutil.disk_usage(place).free + old
    if free < needed:
        needs, has = scaled(needed, "B"), scaled(free, "B")
        raise InputError(f"the checkpoints need {needs}, but {place} has {has} free")
    return free


def _content(run: Run) -> dict[str, Any]:
    for skipped in gather(run.state.skipped):
        run.state.skipped |= skipped
    callbacks = {c.name: c.state_dict() for c in run.callbacks if c.name is not None}
    weights = {name: _stored(tensor) for name, tensor in run.model.state_dict().items()}
    content: dict[str, Any] = {
        "run_id": run.id,
        "record": dataclasses.asdict(run.record),
        "state_dict": weights,
        "optimizer": optimizer_layout(run.model, run.optimizer, run.config.optim.name),
        "optimizer_state": map_tensors(run.optimizer.state_dict(), _stored),
        "scaler": run.precision.state_dict(),
        "state": run.state.to_dict(),
        "train_loss": gather(run.train_loss.state()),
        "callbacks": callbacks,
    }
    if run.ema is not None:
        averages = {name: _stored(value) for name, value in run.ema.by_every_name().items()}
        kept = {name: averages.get(name, tensor) for name, tensor in weights.items()}
        content |= {"state_dict": kept, "raw_state_dict": weights, "ema_steps": run.ema.steps}
    return content


def raw_weights(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the weights that training continues from, not their EMA."""
    content = checkpoint.content
    return content.get("raw_state_dict", content["state_dict"])


def load_checkpoint(run: Run, checkpoint: Checkpoint) -> None:
    """Restore a run that has the :func:`raw_weights` already.

    The content of the checkpoint is dropped, which frees the memory.
    """
    content, skipped = checkpoint.content, run.state.skipped
    run.state = checkpoint.state
    run.state.skipped = skipped | run.state.skipped
    run.print(f"resumed from {checkpoint.path.name}, after step {run.state.step}")
    if run.ema is not None:
        run.ema.load(content["state_dict"], content.get("ema_steps", 0))
    _load_optimizer(run.optimizer, content["optimizer_state"])
    run.schedule.set(run.state.step)
    run.precision.load_state_dict(content["scaler"])
    run.train_loss.load(content["train_loss"][run.world.rank])
    for callback in run.callbacks:
        if callback.name in content["callbacks"]:
            callback.load_state_dict(content["callbacks"][callback.name])
    content.clear()
    run.resumed_from = checkpoint


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load a state, of which sharded parameters take their shards."""
    entries = dict(state["state"])
    indices = chain.from_iterable(group["params"] for group in state["param_groups"])
    parameters = chain.from_iterable(group["params"] for group in optimizer.param_groups)
    pairs = [pair for pair in zip(indices, parameters, strict=True) if pair[0] in entries]
    for index, parameter in pairs:
        entries[index] = map_tensors(entries[index], partial(_like, parameter))
    optimizer.load_state_dict({**state, "state": entries})
    # torch casts each tensor but "step" to the dtype of its parameter. NAdam, for one, keeps a
    # product of momenta in float32 beside parameters of float64.
    for index, parameter in pairs:
        own = optimizer.state[parameter]
        for name, value in entries[index].items():
            if isinstance(value, Tensor):
                own[name] = own[name].to(value.dtype)


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    """Return a tensor of the state with the shards and the strides of its parameter."""
    if value.shape != parameter.shape:
        return value
    if parameter.is_contiguous():
        return sharded_like(value, parameter)
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def _stored(tensor: Tensor) -> Tensor:
    """Return the unsharded tensor on the CPU, as it is saved."""
    return full_tensor(tensor.detach()).cpu()
