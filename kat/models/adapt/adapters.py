"""The adapters of a model: putting them in, their state, merging and removing them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from kat.documents import write_json
from kat.errors import InputError
from kat.extras import require
from kat.files import replacing
from kat.models.adapt.changes import (
    NAME,
    Change,
    LowRankChange,
    Parallel,
    add_change,
    remove_change,
)
from kat.models.config_record import forget, remember
from kat.models.kanify.api import note_shares
from kat.models.kanify.calibrate import disable_fused_inference
from kat.models.weight_decay import update_no_weight_decay
from kat.nn.sharded import full_tensor, is_sharded, sharded_like
from kat.tables import aligned
from kat.text import listing

Kind = Literal["rational", "low_rank", "parallel"]
"""The kinds of adapters, see :func:`kat.adapt`."""
KINDS: tuple[Kind, ...] = get_args(Kind)
KEY, VERSION = "kat_adapter", 1
"""The key of the version in a record, and the version."""
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""The files of a folder of adapters, as PEFT's."""
Place = dict[str, Any]
"""The settings of one adapter, for JSON."""


@dataclass(repr=False)
class Adapters:
    """The adapters in a model; ``print(adapters)`` shows them as a table.

    Args:
        model: the model.
        kind: ``"rational"``, ``"low_rank"`` or ``"parallel"``, see :func:`kat.adapt`.
        places: the settings of each by its name.
        modules_to_save: the names of other modules that are trained and saved with them.
        freeze: all else is frozen.

    Examples:
        >>> import kat
        >>> adapters = kat.adapt(kat.GRKANMlp(16, 64), "rational")
        >>> print(adapters)
        adapter  kind      trainable
        act1     rational  38
        act2     rational  38
        trainable: 76 of 2280 parameters
        >>> adapters.save("adapter")
    """

    model: nn.Module
    kind: Kind
    places: dict[str, Place]
    modules_to_save: list[str] = field(default_factory=list)
    freeze: bool = True
    _in_place: bool = False
    _trainable: dict[str, bool] = field(default_factory=dict)
    _dtypes: dict[str, torch.dtype] = field(default_factory=dict)
    _saved: dict[str, Tensor] = field(default_factory=dict)
    _fused: list[tuple[nn.Module, dict[str, Any]]] = field(default_factory=list)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The adapters, and the modules that are saved with them, by name.

        Raises:
            InputError: the adapters were merged or removed.
        """
        if not self._in_place:
            raise InputError("these adapters were merged or removed; call kat.adapt again")
        suffix = f".{NAME}" if self.kind == "parallel" else ""
        names = [f"{place}{suffix}".strip(".") for place in self.places]
        return {name: self.model.get_submodule(name) for name in (*names, *self.modules_to_save)}

    def put(self) -> None:
        """Insert the adapters, and freeze all else but earlier ones if ``freeze``."""
        self._trainable = {n: p.requires_grad for n, p in self.model.named_parameters()}
        if self.freeze:
            earlier: set[nn.Parameter] = set()
            for module in self.model.modules():
                if isinstance(module, Change | LowRankChange | Parallel):
                    earlier.update(module.parameters())
            for parameter in {*self.model.parameters()} - earlier:
                parameter.requires_grad_(False)
        for name in self.modules_to_save:
            saved = self.model.get_submodule(name).requires_grad_(True)
            for key, tensor in (*saved.named_parameters(), *saved.named_buffers()):
                self._saved[f"{name}.{key}".strip(".")] = tensor.detach().clone()
        for name, tensor in self._statistics().items():
            self._saved[name] = tensor.clone()
        for name, place in self.places.items():
            target: Any = self.model.get_submodule(name)
            if self.kind == "parallel":
                first = self.model.get_submodule(place["first"])
                weight = next(first.parameters())
                dtype = _trained_dtype(weight.dtype)
                Parallel(place["widths"], weight.device, dtype).put(first, target)
                self._fused += disable_fused_inference(self.model, name)
            else:
                self._dtypes[name] = target.weight_numerator.dtype
                add_change(target.to(_trained_dtype(self._dtypes[name])), place["rank"])
        self._in_place = True
        update_no_weight_decay(self.model)
        remember(self.model, self.record())

    def record(self) -> dict[str, Any]:
        """All that :func:`kat.models.adapt.load_adapters` needs beside the tensors, for JSON."""
        return {
            KEY: VERSION,
            "kind": self.kind,
            "places": self.places,
            "modules_to_save": self.modules_to_save,
            "freeze": self.freeze,
        }

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors of the adapters by full name, whole if the model is sharded."""
        return {name: full_tensor(tensor).detach() for name, tensor in self._tensors().items()}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy the tensors of a :meth:`state_dict` into the model.

        Raises:
            InputError: a name or a shape differs; nothing is copied then.
        """
        own = self._tensors()
        shapes = {name: tensor.shape for name, tensor in own.items()}
        given = {name: tensor.shape for name, tensor in state.items()}
        different = dict(shapes.items() ^ given.items())
        if different:
            raise InputError(
                f"the adapters do not fit the model: other names or shapes of"
                f" {listing(sorted(different))}"
            )
        for name, tensor in own.items():
            tensor.copy_(sharded_like(state[name].to(tensor.dtype), tensor))

    def save(self, folder: str | Path) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json``.

        Nothing else of the model is in them but the running statistics of its norms.

        All processes of ``torch.distributed`` call it, and the first writes.

        Args:
            folder: is created if it does not exist.

        Raises:
            InputError: the folder cannot be written, or the adapters were merged or removed.
            MissingPackage: safetensors is missing.
        """
        safetensors = require("safetensors.torch", "saving adapters")
        # Copies, since safetensors refuses tensors that share memory, as tied weights do.
        state = {name: t.cpu().contiguous().clone() for name, t in self.state_dict().items()}
        if torch.distributed.is_initialized() and torch.distributed.get_rank():
            return
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / WEIGHTS) as partial:
            safetensors.save_file(state, partial, metadata={"format": "pt"})
        write_json(folder / CONFIG, self.record())

    def merge(self) -> None:
        """Add the changes to the coefficients, and remove the adapters; the output stays.

        The same is trainable as before the adapters were made.
        Low-rank changes become coefficients, a row for each group (``share="none"``).

        Raises:
            InputError: the adapters are parallel, or were merged or removed, or the model is
                sharded.
        """
        if self.kind == "parallel":
            raise InputError(
                "parallel adapters cannot be merged: they have activations of their own, which no"
                " weight of the model can hold. They stay in place"
            )
        self._take_out(merge=True)
        note_shares(self.model)

    def remove(self) -> None:
        """Remove the adapters, and restore what the model computed and what was trainable.

        Raises:
            InputError: the adapters were merged or removed, or the model is sharded.
        """
        self._take_out(merge=False)
        for name, dtype in self._dtypes.items():
            act: Any = self.model.get_submodule(name)
            if act.weight_numerator.dtype == _trained_dtype(dtype):  # else the model was moved
                act.to(dtype)
        state: dict[str, Tensor] = dict(self.model.named_parameters(remove_duplicate=False))
        state |= dict(self.model.named_buffers(remove_duplicate=False))
        for name, value in self._saved.items():
            state[name].data = value.to(state[name])

    def __repr__(self) -> str:
        """Return the table of what is trainable."""
        rows = [["adapter", "kind", "trainable"]]
        for name, module in self.modules.items():
            kind = "saved with them" if name in self.modules_to_save else self.kind
            rows.append([name or "(the model)", kind, str(_count(module, trainable=True))])
        trainable, of_all = (_count(self.model, trainable=only) for only in (True, False))
        return "\n".join([*aligned(rows), f"trainable: {trainable} of {of_all} parameters"])

    def _tensors(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {}
        for name, module in self.modules.items():
            tensors |= module.state_dict(prefix=f"{name}." if name else "")
        return tensors | self._statistics()

    def _statistics(self) -> dict[str, Tensor]:
        """Return the running statistics of norms: training moves them, whatever is frozen."""
        names = ("running_mean", "running_var", "num_batches_tracked")
        buffers = self.model.named_buffers()
        return {name: tensor for name, tensor in buffers if name.rpartition(".")[2] in names}

    def _take_out(self, *, merge: bool) -> None:
        if any(map(is_sharded, self.model.parameters())):
            raise InputError(
                "the model is sharded; save the adapters, load them into the whole model, and"
                " change that"
            )
        for place, module in zip(self.places, self.modules.values(), strict=False):
            if isinstance(module, Parallel):
                module.take_out(self.model.get_submodule(place))
            else:
                remove_change(module, merge=merge)  # type: ignore[arg-type]
        for around, before in reversed(self._fused):
            vars(around).update(before)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(self._trainable.get(name, parameter.requires_grad))
        self._in_place = False
        update_no_weight_decay(self.model)
        forget(self.model, self.record())


def _trained_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of trained parameters: half precision would lose small steps."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _count(module: nn.Module, *, trainable: bool) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)
