"""Rationals by name, in the tables in which other libraries look up activations."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeAlias

from kat.errors import InputError, check_count, first_line
from kat.extras import is_installed
from kat.nn import GroupRational, preset_names
from kat.ops.torch_internals import timm_activations

_Make: TypeAlias = "partial[GroupRational]"
_Table: TypeAlias = tuple[Callable[[str], Any], Callable[[str, _Make], Any]]
"""Two functions of a table: one returns the entry of a name, or None; the other sets it."""
_LAYOUTS = {"rational": None, "rational_nchw": 1, "rational_nhwc": -1}


def register_activations(num_groups: int = 8) -> dict[str, list[str] | str]:
    """Make rationals known by name to transformers, timm and MONAI, as far as they are installed.

    Use this when a configuration names the activation, e.g. ``hidden_act="rational"`` or
    ``act_layer="rational_nchw_relu"``. The names are

    - ``"rational"``: for (..., C), up to three dimensions; starts as SiLU;
    - ``"rational_nchw"``: for (B, C, ...), as after convolutions;
    - ``"rational_nhwc"``: for (B, H, W, C);
    - each of these with a preset, e.g. ``"rational_gelu"``: starts as this function.

    Each activation of a model is a :class:`GroupRational` of its own. Call this before a model is
    built or loaded. Another call with the same argument changes nothing, and one with other groups
    holds for the models that are built after it.

    Args:
        num_groups: groups into which the channels are divided. They must divide the width of each
            activation of the model, also in squeeze-and-excitation.

    Raises:
        InputError: no positive integer, or something else has one of the names. No table is
            changed.

    Returns:
        By library, the names that it knows, or the reason why it knows none.

    Examples:
        >>> import kat
        >>> kat.register_activations()["timm"][:3]
        ['rational', 'rational_gelu', 'rational_gelu_narrow']
        >>> import timm
        >>> model = timm.create_model("resnet18", act_layer="rational_nchw_relu")
        >>> model.act1.init
        'relu'
    """
    made = _activations(check_count("num_groups", num_groups))
    known: dict[str, list[str] | str] = {}
    tables: dict[str, _Table] = {}
    for library, table_of in _TABLES.items():
        if not is_installed(library):
            known[library] = "not installed"
            continue
        try:
            tables[library] = table_of()
            known[library] = [*made]
        except Exception as error:  # another version, or one that cannot be imported
            known[library] = f"not supported: {first_line(error)}"
    for library, (get, _) in tables.items():
        for name in made:
            _check_is_free(library, name, get(name))
    for get, put in tables.values():
        for name, make in made.items():
            if get(name) is not make:
                put(name, make)
    return known


@cache
def _activations(num_groups: int) -> dict[str, _Make]:
    made: dict[str, _Make] = {}
    for layout, channel_dim in _LAYOUTS.items():
        make = partial(GroupRational, num_groups=num_groups, channel_dim=channel_dim)
        made[layout] = partial(make, init="silu")
        for preset in preset_names():
            made[f"{layout}_{preset}"] = partial(make, init=preset)
    return made


def _check_is_free(library: str, name: str, held: Any) -> None:
    if held is not None and getattr(held, "func", None) is not GroupRational:
        raise InputError(
            f"{library} has another activation named {name!r}: {held!r}; remove it, or give it"
            " another name"
        )


def _of_transformers() -> _Table:
    from transformers.activations import ACT2FN

    return partial(dict.get, ACT2FN), ACT2FN.__setitem__  # its own get may build an activation


def _of_timm() -> _Table:
    table = timm_activations()
    return table.get, table.__setitem__


def _of_monai() -> _Table:
    from monai.networks.layers.factories import Act

    def get(name: str) -> Any:
        return Act[name] if name.upper() in Act.names else None

    def put(name: str, make: _Make) -> None:
        Act.add_factory_callable(name, lambda: make)

    return get, put


_TABLES: dict[str, Callable[[], _Table]] = {
    "transformers": _of_transformers,
    "timm": _of_timm,
    "monai": _of_monai,
}
