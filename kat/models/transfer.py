"""The functions that one model has learned, fixed in another."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from torch import nn
from torch.nn.utils.parametrize import is_parametrized

from kat.errors import InputError, check_is
from kat.models.checkpoints.storage import load_model
from kat.nn import Coefficients, GatedGRKANMlp, GRKANLinear, GRKANMlp, GroupRational
from kat.nn.rational import rationals


def transfer_functions(
    source: nn.Module | str | Path, target: nn.Module, freeze: bool = True
) -> None:
    """Give an untrained model the functions that another model has learned, layer by layer.

    The n-th rational of the target takes the coefficients of the n-th rational of the source. Then
    the GR-KAN layers draw their weights again, by the initialization for these functions; other
    layers, as in a model of :func:`kat.kanify`, keep theirs. The optimizer does not get frozen
    coefficients, but a saved model does not say that they were frozen.

    Args:
        source: a model, such as ``kat.load(path).model``, or the path of one: a run directory, a
            model folder, a ``.ckpt`` or ``.safetensors`` file. ``"language"`` stands for two
            functions that come with the package, the means of six language models: one for the
            first rational of the target, one for each other. They are for MLPs without F_1.
        target: the model before its training, which may be wider or narrower than the source. A
            trained one would lose the weights of its GR-KAN layers.
        freeze: whether the functions stay as they are; else they learn on.

    Raises:
        InputError: the models have different numbers of rationals, or none; or a rational has
            another name in its layer, form, degree, number of groups or share than the one that it
            would take; or only one of them has adapters. The target is unchanged.

    Examples:
        >>> import kat
        >>> model = kat.models.build_model(kat.load("runs/digits").record)  # fresh weights
        >>> kat.transfer_functions("runs/digits", model)
        >>> model.blocks[0].mlp.act2.weight_numerator.requires_grad
        False
        >>> from torch import nn
        >>> mlps = nn.ModuleList(kat.GRKANMlp(64, 256, first_init="none") for _ in range(6))
        >>> kat.transfer_functions("language", mlps)
    """
    check_is("target", target, nn.Module)
    if source == "language":
        source = _shipped(source, target)
    if isinstance(source, str | Path):
        source, _ = load_model(source)
    check_is("source", source, nn.Module)
    given, own = rationals(source), rationals(target)
    if not own or len(given) != len(own):
        raise InputError(
            f"the functions do not fit: rationals in the source {len(given)}, in the target"
            f" {len(own)}; take a KAT, or a kanified model, of the same depth"
        )
    for (name, act), (other, learned) in zip(own.items(), given.items(), strict=True):
        kinds = _kind(other, learned), _kind(name, act)
        if kinds[0] != kinds[1]:
            raise InputError(
                f"the functions do not fit: {other} of the source is {kinds[0]}, and {name} of the"
                f" target {kinds[1]}"
            )
    for act, learned in zip(own.values(), given.values(), strict=True):
        act.load_state_dict(learned.state_dict())
        act.requires_grad_(not freeze)
    for module in target.modules():
        if isinstance(module, GRKANLinear | GRKANMlp | GatedGRKANMlp):
            module.init_weights()


def _shipped(name: str, target: nn.Module) -> nn.Module:
    """Return functions that the package ships, as often as the target has rationals."""
    text = (files("kat.models") / "functions.json").read_text(encoding="utf-8")
    stored = json.loads(text)[name]
    first, others = (Coefficients.from_dict(stored[part]) for part in ("first", "others"))
    layers = nn.ModuleList()
    for act in rationals(target).values():
        init = others if layers else first
        learned = GroupRational(act.num_groups, init=init, share=act.share)
        layers.append(nn.ModuleDict({"act2": learned}))
    return layers


def _kind(name: str, act: GroupRational) -> str:
    return (
        f"{name.rpartition('.')[2]} with degree={act.degree}, form={act.form!r},"
        f" num_groups={act.num_groups}, share={act.share!r}, adapted={is_parametrized(act)}"
    )
