"""Making adapters, and loading them into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kat.errors import InputError, unknown
from kat.models import pretrained
from kat.models.adapt.adapters import KINDS, VERSION, Adapters, Kind
from kat.models.adapt.files import CONFIG, KEY, read_record, read_state
from kat.models.adapt.places import (
    Place,
    check_free,
    check_mlp,
    check_rational,
    check_size,
    is_adapted,
    mlp_places,
    rational_places,
)
from kat.models.kanify.wrapped import check_not_compiled
from kat.models.pretrained import noted
from kat.models.selection import Parts, Selection
from kat.nn.sharded import is_sharded


def adapt(
    model: nn.Module,
    kind: Kind,
    only: Selection | None = None,
    *,
    exclude: Selection | None = None,
    rank: int | None = None,
    width: int | None = None,
    modules_to_save: Selection | None = None,
    freeze: bool = True,
) -> Adapters:
    """Makes a trained model adaptable by few parameters, in place; its function is unchanged.

        "rational"    F with A + D diag(s), A its coefficients, D trained
        "low_rank"    F with A + (U V) diag(s), U (G, rank) and V (rank, k) trained
        "parallel"    y + W_2 F(W_1 x + b_1) + b_2 beside an MLP from x to y, all of it trained

    D, U, W_2 and b_2 are 0 at the start. s_c = 1 / max |dF/dc| on [-6, 6] for the coefficients c of
    each power, so that steps of one size move F by as much at every power.

    The first two are for models with rationals: a KAT, or one after :func:`kat.kanify`. Trained
    parameters are float32 where the model is in lower precision. :func:`kat.param_groups` gives
    D, U, V and the bottleneck's coefficients a learning rate of their own and no weight decay.

    Args:
        model: any model, before it is compiled, or wrapped for several processes.
        kind: of the adapters.
        only: the rationals, or the MLPs by their last linear map, all by default: an index; a name
            or a glob that matches the name or that of a module around it, or the end of one
            (``"blocks.0"``, ``"encoder.layer.[0-3]"``, ``"act2"``); a regular expression
            (``re.compile``) that matches such a name as a whole; a function of the module and its
            name; or several of these.
        exclude: what is left out, selected in the same ways.
        rank: of low-rank changes, 2 by default.
        width: of the bottleneck of parallel adapters, 16 by default.
        modules_to_save: other modules that are trained and saved too, such as a new head, selected
            in the same ways.
        freeze: whether all else is frozen but adapters that were made before. False leaves it as it
            is, beside PEFT's LoRA for instance.

    Returns:
        The adapters: ``print`` shows them, ``save(folder)`` writes them alone,
        :func:`kat.models.adapt.load_adapters` loads that, ``merge()`` leaves a plain model, and
        ``remove()`` the model before.

    Raises:
        InputError: a model without rationals or MLPs, or one that is wrapped or adapted already; a
            selection that matches nothing; an unknown kind; a rank or width that is not a positive
            integer, or not of this kind.

    Source: low-rank coefficients: NoRA, arXiv 2509.13240; parallel: AdaptFormer, arXiv 2205.13535.

    Examples:
        >>> import torch
        >>> import kat
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Linear(16, 64), nn.GELU(), nn.Linear(64, 4))
        >>> _ = kat.kanify(model)
        >>> adapters = kat.adapt(model, "low_rank", "1", rank=2)
        >>> print(adapters)
        adapter  kind      trainable
        1        low_rank  52
        trainable: 52 of 1476 parameters
        >>> optimizer = torch.optim.AdamW(kat.param_groups(model, lr=1e-3))
    """
    if kind not in KINDS:
        raise unknown("kind of adapter", str(kind), KINDS)
    _check_model(model)
    rank = _size("rank", rank, 2, kind == "low_rank", kind)
    width = _size("width", width, 16, kind == "parallel", kind)
    if kind == "parallel":
        found, what = mlp_places(model, width), "MLP"
    else:
        found, what = rational_places(model, rank if kind == "low_rank" else None), "rational"
    chosen = Parts(model, {name: name for name in found}, what).selected(only, exclude)
    places = {name: found[name] for name in chosen}
    saved = _outermost_modules(model, modules_to_save)
    adapters = Adapters(model, kind, places, saved, freeze)
    check_free(model, places)
    adapters.put()
    return adapters


def load_adapters(model: nn.Module, folder: str | Path, *, freeze: bool = True) -> Adapters:
    """Puts saved adapters into a model like the one that they were trained in.

    Args:
        model: as before :func:`kat.adapt`: with the same weights, and rationals in the same places.
        folder: where :meth:`Adapters.save` wrote them.
        freeze: as in :func:`kat.adapt`.

    Raises:
        InputError: the folder is not readable or not of kat.adapt, or does not fit the model, which
            is then unchanged.
        MissingPackage: safetensors is missing.

    Examples:
        >>> import kat
        >>> from kat.models.adapt import load_adapters
        >>> kat.adapt(kat.GRKANMlp(16, 64), "rational").save("adapter")
        >>> adapters = load_adapters(kat.GRKANMlp(16, 64), "adapter")
        >>> adapters.kind, list(adapters.modules)
        ('rational', ['act1', 'act2'])
    """
    _check_model(model)
    record, state = read_record(Path(folder)), read_state(Path(folder))
    try:
        adapters = _of_record(model, {**record, "freeze": freeze})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{Path(folder) / CONFIG}: no valid entry {error}") from None
    check_free(model, adapters.places)
    adapters.put()
    try:
        adapters.load_state_dict(state)
    except InputError as error:
        adapters.remove()
        raise InputError(f"{folder} does not fit the model: {error}") from None
    return adapters


def adapters_of(model: nn.Module) -> list[Adapters]:
    """The adapters in a model that ``from_pretrained`` of transformers has loaded.

    They are as :func:`kat.adapt` returned them, but :meth:`Adapters.remove` leaves the modules that
    are saved with them as they were loaded, and what is frozen frozen.

    Args:
        model: of transformers.

    Returns:
        Those in place, in the order in which they were made.

    Raises:
        InputError: the configuration names adapters, and the model does not have them.

    Examples:
        >>> import kat
        >>> from kat.models.adapt import adapters_of
        >>> from transformers import LlamaConfig, LlamaModel
        >>> size = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2}
        >>> model = LlamaModel(LlamaConfig(num_hidden_layers=1, vocab_size=50, **size))
        >>> adapters = kat.adapt(model, "parallel")
        >>> model.save_pretrained("folder")
        >>> again = LlamaModel.from_pretrained("folder")
        >>> list(adapters_of(again)[0].modules)
        ['layers.0.mlp.down_proj.parallel']
    """
    records = [record for record in noted(model) if KEY in record]
    if not all(_is_in(model, record) for record in records):
        raise InputError(
            "the configuration names adapters that the model lacks: call"
            " kat.models.pretrained.register_pretrained() before from_pretrained"
        )
    return [
        Adapters(model, r["kind"], r["places"], r["modules_to_save"], r["freeze"], _in_place=True)
        for r in records
    ]


def _of_record(model: nn.Module, record: Mapping[str, Any]) -> Adapters:
    """The adapters of a record, checked against the model, and not yet in place."""
    if record[KEY] != VERSION:
        raise InputError(f"the adapters have version {record[KEY]!r}; only {VERSION} is supported")
    kind, modules = record["kind"], dict(model.named_modules())
    if kind not in KINDS:
        raise unknown("kind of adapter", str(kind), KINDS)
    places: dict[str, Place] = dict(record["places"])
    check = check_mlp if kind == "parallel" else check_rational
    for name, place in places.items():
        check(modules, name, place)
    for name in record["modules_to_save"]:
        if name not in modules:
            raise InputError(f"the adapters are of another model: there is no module {name!r}")
    saved = list(record["modules_to_save"])
    return Adapters(model, kind, places, saved, bool(record["freeze"]))


def _check_model(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise InputError(f"the model must be a torch.nn.Module, got {type(model).__name__}")
    check_not_compiled(model)
    if isinstance(model, DistributedDataParallel) or any(map(is_sharded, model.parameters())):
        raise InputError(
            "adapt the model before it is wrapped: first kat.adapt(model, ...), then"
            " DistributedDataParallel(model) or fully_shard(model), then the optimizer"
        )


def _size(name: str, value: int | None, default: int, applies: bool, kind: str) -> int:
    """A rank or width, checked."""
    if value is None:
        return default
    if not applies:
        raise InputError(f"{name}={value!r} has no meaning for adapters of the kind {kind!r}")
    check_size(name, value)
    return value


def _outermost_modules(model: nn.Module, selection: Selection | None) -> list[str]:
    """The names of the selected modules without those inside others."""
    if selection is None:
        return []
    modules = {name: name for name, _ in model.named_modules() if name}
    names = Parts(model, modules, "module").selected(selection)
    return [name for name in names if not any(name.startswith(f"{other}.") for other in names)]


def _is_in(model: nn.Module, record: Mapping[str, Any]) -> bool:
    """Whether the adapters of a record are in the model."""
    modules = dict(model.named_modules())
    return all(is_adapted(modules.get(name)) for name in record["places"])


def _make(model: nn.Module, record: Mapping[str, Any]) -> None:
    """Makes the adapters of a record, with the values of the start.

    A model without its head lacks modules that were saved with them.
    """
    modules = dict(model.named_modules())
    saved = [name for name in record["modules_to_save"] if name in modules]
    adapters = _of_record(model, {**record, "modules_to_save": saved})
    check_free(model, adapters.places)
    adapters.put()


def _renamed(record: Mapping[str, Any], rename: pretrained.Rename) -> dict[str, Any]:
    places = {
        rename(name): {**place, "first": rename(place["first"])} if "first" in place else place
        for name, place in record["places"].items()
    }
    return {
        **record,
        "places": places,
        "modules_to_save": [*map(rename, record["modules_to_save"])],
    }


pretrained.KINDS[KEY] = pretrained.Kind(_make, _renamed)
