"""The presets that the package ships, files of coefficients, and what ``init=`` stands for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

from kat.documents import read_json
from kat.errors import InputError, unknown
from kat.extras import needed_by
from kat.nn.coefficients import ALIASES, KANIFY_INTERVAL, Coefficients, Init, check_degree
from kat.nn.functions import FUNCTIONS
from kat.nn.quadrature import evaluable
from kat.ops.arguments import check_form


def preset_names() -> list[str]:
    """Return the names that ``init=`` accepts.

    Examples:
        >>> from kat.nn import preset_names
        >>> [name for name in preset_names() if "gelu" in name]
        ['gelu', 'gelu_narrow', 'gelu_tanh', 'gelu_wide', 'quick_gelu']
    """
    return sorted([*_table(), *ALIASES])


def preset(name: str, degree: Sequence[int] = (5, 4), form: str = "A") -> Coefficients:
    """Return the coefficients that approximate a known function, for a degree and a form.

    The package ships degree (5, 4). For any other degree the function is fitted on the
    same interval at the first call, in about a second, and the result is cached.

    Outside its interval F leaves the function. :class:`kat.nn.StabilityMonitor` records the share
    of inputs that are outside, and :func:`kat.nn.register_grkan_hook` shows them.

    Args:
        name: one of :func:`preset_names`.
        degree: (m, n), the degrees of numerator and denominator; m >= 1, n >= 0.
        form: ``"A"`` or ``"B"``.

    Raises:
        InputError: an unknown name or form, or an invalid degree.
        MissingPackage: another degree, and NumPy or SciPy is missing.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.nn import preset
        >>> gelu = preset("gelu")
        >>> gelu.degree, gelu.interval, f"{gelu.max_error:.4f}"
        ((5, 4), (-3.0, 3.0), '0.0013')
        >>> y = kat.GroupRational(1, init="gelu")(torch.tensor([20.0]))  # far outside
        >>> f"{y.item():.1f}"
        '27.8'
    """
    if ALIASES.get(name, name) not in _table():
        raise unknown("function", name, preset_names())
    check_form(form)
    return _preset(ALIASES.get(name, name), check_degree(degree), form)


@cache
def _preset(name: str, degree: tuple[int, int], form: str) -> Coefficients:
    stored, (m, n) = _table()[name], degree
    if name == "identity":
        return Coefficients((0.0, 1.0) + (0.0,) * (m - 1), (0.0,) * n, form)
    if degree == (5, 4):
        return Coefficients.from_dict({**stored[form], "form": form}, name)
    return minimax(name, degree, form, tuple(stored[form]["interval"]))


@cache
def minimax(
    name: str, degree: tuple[int, int], form: str, interval: tuple[float, float]
) -> Coefficients:
    """Return the coefficients with the least maximum error on an interval.

    The package has degree (5, 4) on [-6, 6]. Anything else is fitted at the first call.

    Args:
        name: a function in :data:`kat.nn.functions.FUNCTIONS`, or a preset; in form B the fit of a
            narrow preset ignores the line beyond the interval.
        degree, form, interval: see :func:`kat.nn.fitting.fit`.

    Raises:
        InputError: an invalid degree, form or interval.
        MissingPackage: a fit is needed, and NumPy or SciPy is missing.
    """
    check_form(form)
    if (degree, interval) == ((5, 4), KANIFY_INTERVAL):
        stored = _file()["kanify"][name][form]
        return Coefficients.from_dict({**stored, "form": form}, name)
    with needed_by(f"a fit of {name!r} of degree {degree} on {interval}", "fit"):
        from kat.nn.fitting import fit

    function = name.removesuffix("_narrow").removesuffix("_wide")
    whole_line = not name.endswith("_narrow")
    return fit(function, degree, form, interval, whole_line=whole_line).coefficients


def read_coefficients(path: str | Path) -> Coefficients:
    """Read a file written by ``kat fit``.

    Raises:
        InputError: the file is missing, or holds something else.

    Examples:
        >>> import json
        >>> from pathlib import Path
        >>> from kat.nn import preset, read_coefficients
        >>> _ = Path("gelu.json").write_text(json.dumps(preset("gelu").to_dict()))
        >>> read_coefficients(Path("gelu.json")) == preset("gelu")
        True
    """
    content: Any = read_json(path)
    return Coefficients.from_dict(content, str(path))


def given_coefficients(
    init: Init, degree: tuple[int, int] = (5, 4), form: str = "A"
) -> str | Coefficients:
    """Return the coefficients that ``init=`` stands for; the name of a preset as it is.

    A function is the preset of its values, such as ``torch.nn.GELU()``; any other is fitted on
    [-3, 3], in about a second.

    Args:
        init: see :data:`kat.nn.Init`.
        degree, form: of a function that is fitted.

    Raises:
        InputError: the file is missing, or it or ``init`` holds something else.
        MissingPackage: a fit is needed, and NumPy or SciPy is missing.

    Examples:
        >>> from kat.nn import given_coefficients, preset
        >>> given_coefficients("gelu")
        'gelu'
        >>> given_coefficients(preset("gelu").to_dict()).degree
        (5, 4)
    """
    if isinstance(init, Coefficients):
        return init
    if isinstance(init, str | Path):
        is_file = str(init).endswith(".json") or isinstance(init, Path)
        return read_coefficients(init) if is_file else str(init)
    return _init_of_function(init, degree, form) if callable(init) else Coefficients.from_dict(init)


def _init_of_function(given: Any, degree: tuple[int, int], form: str) -> str | Coefficients:
    found = getattr(given, "coefficients", None)
    if isinstance(found, Coefficients):  # of kat.nn.fitting.fit
        return found
    function = given() if isinstance(given, type) else given  # nn.GELU, as act_layer= takes it
    x = torch.linspace(-12, 12, 121, dtype=torch.float64, device="cpu")
    y = torch.as_tensor(evaluable(function)(x.clone()), dtype=x.dtype)
    for name, known in FUNCTIONS.items():
        if torch.allclose(known(x), y):
            return name
    with needed_by("a fit of the function in init", "fit"):
        from kat.nn.fitting import fit
    return fit(function, degree, form).coefficients


def coefficients_of(init: str | Coefficients, degree: tuple[int, int], form: str) -> Coefficients:
    """Return the coefficients of a preset, or check the given ones against a layer.

    Args:
        init: a result of :func:`given_coefficients`.
        degree: (m, n), the degrees of the layer.
        form: the form of the layer, ``"A"`` or ``"B"``.

    Raises:
        InputError: an unknown name, or coefficients of another degree or form.
    """
    if isinstance(init, str):
        return preset(init, degree, form)
    if (init.degree, init.form) != (degree, form):
        raise InputError(
            f"init has degree {init.degree} and form {init.form}, but the layer has degree"
            f" {degree} and form {form}; build it with degree={init.degree}, form={init.form!r}"
        )
    return init


def _table() -> dict[str, dict[str, dict[str, Any]]]:
    """Return the stored presets by name and form."""
    return _file()["presets"]


@cache
def _file() -> dict[str, Any]:
    return json.loads((files("kat.nn") / "presets.json").read_text(encoding="utf-8"))
