"""The functions that one model has learned, fixed in another."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from kat.errors import InputError
from kat.models.checkpoints.storage import load_model
from kat.nn import GatedGRKANMlp, GRKANLinear, GRKANMlp, GroupRational
from kat.nn.rational import rationals
from kat.text import counted


def transfer_functions(
    source: nn.Module | str | Path, target: nn.Module, freeze: bool = True
) -> None:
    """Give an untrained model the functions that another model has learned, layer by layer.

    The n-th rational of the target takes the coefficients of the n-th rational of the source. Then
    the GR-KAN layers draw their weights again, by the initialization for these functions. A frozen
    function costs what a fixed activation costs, and needs no gradients for its coefficients.

    Args:
        source: a model, or the path of one: a run directory, a model folder, a ``.ckpt`` or
            ``.safetensors`` file.
        target: the model before its training. It may be wider or narrower than the source.
        freeze: whether the functions stay as they are; else they learn on.

    Raises:
        InputError: the models have different numbers of rationals; or a rational has another form,
            degree or number of groups than the one that it would take. The target is unchanged.

    Examples:
        >>> import kat
        >>> model = kat.models.build_model(kat.load("runs/digits").record)  # fresh weights
        >>> kat.transfer_functions("runs/digits", model)
        >>> model.blocks[0].mlp.act2.weight_numerator.requires_grad
        False
    """
    if not isinstance(source, nn.Module):
        source, _ = load_model(source)
    given, own = rationals(source), rationals(target)
    if len(given) != len(own):
        raise InputError(
            f"the functions do not fit: the source has {counted(len(given), 'rational')}, first"
            f" {next(iter(given), None)}, and the target {len(own)}, first {next(iter(own), None)}"
        )
    for (name, act), (other, learned) in zip(own.items(), given.items(), strict=True):
        if _kind(act) != _kind(learned):
            raise InputError(
                f"the functions do not fit: {other} of the source has {_kind(learned)}, and {name}"
                f" of the target {_kind(act)}"
            )
    for act, learned in zip(own.values(), given.values(), strict=True):
        act.load_state_dict(learned.state_dict())
        act.requires_grad_(not freeze)
    for module in target.modules():
        if isinstance(module, GRKANLinear | GRKANMlp | GatedGRKANMlp):
            module.init_weights()


def _kind(act: GroupRational) -> str:
    m, n = act.degree
    shapes = [tuple(p.shape) for p in act.parameters()]
    return f"form {act.form}, degree ({m}, {n}) and coefficients {shapes}"
