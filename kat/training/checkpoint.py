"""The checkpoint of a run: all that it takes to resume it, in one file with its own checksum.

=================  ================================================================================
run_id             of the run, as in its run.yaml
record             what it takes to build the model
state_dict         the weights that are validated and deployed: the EMA where there is one
raw_state_dict     the weights themselves, beside an EMA
ema_steps          steps that the EMA has taken
optimizer          its name, and the names of the parameters in each group
optimizer_state    its moments and the like
scaler             of the loss in 16-mixed
state              a :class:`kat.training.state.TrainState`
train_loss         sum and count of this epoch so far, of each rank
callbacks          the state of each callback, by its name
=================  ================================================================================

Sharded tensors are stored whole, so that any number of processes resumes from the file.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kat.checksum import write_checksum
from kat.errors import CheckpointFailed
from kat.files import link_or_copy, replacing
from kat.nn.sharded import sharded_like, whole
from kat.text import scaled
from kat.training.callbacks.callback import Callback
from kat.training.distributed import assign, broadcast, gather
from kat.training.optim.ema import EMA
from kat.training.optim.optimizer import optimizer_layout
from kat.training.run_directory import LAST, PREVIOUS, Checkpoint
from kat.training.state import UNKNOWN, TrainState, rounding_changes

if TYPE_CHECKING:
    from kat.training.build import Run

_NOT_EXACT = "the results are not those of an uninterrupted run to the last bit"


def save_checkpoint(run: Run, path: Path) -> None:
    """Writes the state of a run, whole or not at all; a collective.

    What was last.ckpt becomes previous.ckpt.

    Raises:
        CheckpointFailed: it cannot be written; in all ranks.
    """
    run.notify(Callback.on_checkpoint)
    content = _content(run)
    failure = broadcast(_write(content, path) if run.is_first else "")
    if failure:
        raise CheckpointFailed(
            f"{failure}. Training stops; the newest whole checkpoint is as it was. Make room, or"
            " make the directory writable, and continue with --resume auto"
        )


def _write(content: dict[str, Any], path: Path) -> str:
    """Writes a checkpoint; returns the reason if that fails."""
    try:
        with replacing(path) as partial:
            torch.save(content, partial)
            write_checksum(partial)
            if path.name == LAST and path.exists():
                link_or_copy(path, path.with_name(PREVIOUS))
    except (OSError, RuntimeError) as error:  # PyTorch's own writer raises RuntimeError
        free = scaled(shutil.disk_usage(path.parent).free, "B")
        reason = f"{' '.join(str(error).split())} ({free} free)"
        return f"{path} cannot be written: {reason}"
    return ""


def _content(run: Run) -> dict[str, Any]:
    skipped = gather(run.state.skipped)
    run.state.skipped = {path: reason for each in skipped for path, reason in each.items()}
    weights = {name: _stored(tensor) for name, tensor in run.model.state_dict().items()}
    content: dict[str, Any] = {
        "run_id": run.id,
        "record": dataclasses.asdict(run.record),
        "state_dict": weights,
        "optimizer": optimizer_layout(run.model, run.config.optim),
        "optimizer_state": _mapped(run.optimizer.state_dict(), _stored),
        "scaler": run.precision.state_dict(),
        "state": run.state.to_dict(),
        "train_loss": gather(run.train_loss.state()),
        "callbacks": {c.name: c.state_dict() for c in run.callbacks if c.name is not None},
    }
    if run.ema is not None:
        averages = {name: _stored(value) for name, value in run.ema.by_every_name().items()}
        kept = {name: averages.get(name, tensor) for name, tensor in weights.items()}
        content |= {
            "state_dict": kept, "raw_state_dict": weights, "ema_steps": run.ema.steps
        }  # fmt: skip
    return content


def load_checkpoint(run: Run, checkpoint: Checkpoint) -> None:
    """Restores a run; one of another division of the data resumes at the same place of it.

    The content of the checkpoint is then dropped, which frees the memory.
    """
    path, content = checkpoint.path, checkpoint.content
    saved = TrainState.from_dict(content["state"])
    changed = rounding_changes(saved.arithmetic, run.state.arithmetic)
    if changed:
        run.print(f"resumed with {changed}: {_NOT_EXACT}")
    run.print(f"resumed from {path.name}, after step {saved.step}")
    run.state = saved.divided(run.state.division, int(min(run.batches, UNKNOWN)))
    if run.state.division == saved.division and run.state.step != saved.step:
        run.print(
            f"an epoch has {run.batches} batches now: the schedule continues at step"
            f" {run.state.step}, the same place in the new epochs"
        )
    elif run.state is not saved:
        run.print(
            f"resumed by {run.state.division}, saved by {saved.division}: the data continues where"
            f" it was, but {_NOT_EXACT}"
        )
    raw = content.get("raw_state_dict", content["state_dict"])
    for name, tensor in run.model.state_dict().items():
        assign(tensor, raw[name])
    if run.config.optim.ema_decay > 0:
        run.ema = EMA(run.model, run.config.optim.ema_decay)
        run.ema.load(content["state_dict"], content.get("ema_steps", 0))
    _load_optimizer(run.optimizer, content["optimizer_state"])
    run.schedule.set(run.state.step)
    run.precision.load_state_dict(content["scaler"])
    run.train_loss.load(content["train_loss"], run.world)
    for callback in run.callbacks:
        if callback.name in content["callbacks"]:
            callback.load_state_dict(content["callbacks"][callback.name])
    content.clear()
    run.resumed_from = checkpoint


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Loads a state, of which sharded parameters take their shards."""
    entries = dict(state["state"])
    for saved, group in zip(state["param_groups"], optimizer.param_groups, strict=True):
        for index, parameter in zip(saved["params"], group["params"], strict=True):
            if index in entries:
                entries[index] = _mapped(entries[index], partial(_like, parameter))
    optimizer.load_state_dict({**state, "state": entries})


def _like(parameter: Tensor, value: Tensor) -> Tensor:
    return sharded_like(value, parameter) if value.shape == parameter.shape else value


def _stored(tensor: Tensor) -> Tensor:
    """The unsharded tensor on the CPU, as it is saved."""
    return whole(tensor.detach()).cpu()


def _mapped(content: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Nested dictionaries and lists with a function applied to their tensors."""
    if isinstance(content, Tensor):
        return function(content)
    if isinstance(content, Mapping):
        return {name: _mapped(item, function) for name, item in content.items()}
    if isinstance(content, list | tuple):
        return type(content)(_mapped(item, function) for item in content)
    return content
