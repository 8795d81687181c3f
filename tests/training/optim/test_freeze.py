"""Frozen parts: which parameters they are, and that training leaves them and their mode alone."""

from __future__ import annotations

import pytest
import timm
import torch

from kat.errors import InputError
from kat.models import rational_parameter_names
from kat.training import OptimConfig
from kat.training.engine.loop import fit
from kat.training.optim.freeze import freeze
from kat.training.record.run import Callback
from tests.training.small import batches, make_run

pytestmark = pytest.mark.slow


def _model(name="kat_micro_patch2_8", **options):
    torch.manual_seed(0)
    return timm.create_model(name, in_chans=1, **options)


def _frozen(model):
    return {name for name, p in model.named_parameters() if not p.requires_grad}


EMBEDDINGS = {"cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias"}


def test_parts_by_name():
    names = {name for name, _ in _model().named_parameters()}
    first = {n for n in names if n.startswith(("blocks.0.", "blocks.1."))}
    for parts, expected in {
        "backbone": names - {"head.weight", "head.bias"},
        "rationals": rational_parameter_names(_model()),
        0: EMBEDDINGS,
        2: EMBEDDINGS | first,
        4: names - {"head.weight", "head.bias"},
        "blocks.*.attn.*": {n for n in names if ".attn." in n},
        "1, rationals": EMBEDDINGS
        | {n for n in names if n.startswith("blocks.0.")}
        | rational_parameter_names(_model()),
        None: set(),
    }.items():
        model = _model()
        freeze(model, parts)
        assert _frozen(model) == expected, parts


def test_a_vit_has_no_rationals_to_freeze():
    with pytest.raises(InputError, match="'rationals' is not"):
        freeze(_model("vit_micro_patch2_8"), "rationals")


class Modes(Callback):
    """The modules in training mode at each step, and the gradients that there are."""

    def __init__(self):
        self.modes, self.gradients = [], []

    def on_before_step(self, run):
        named = run.model.named_modules()
        self.modes.append({name for name, module in named if module.training})
        named = run.model.named_parameters()
        self.gradients.append({name for name, p in named if p.grad is not None})


def _fit(freeze_parts, *callbacks, compiled=False, **optim):
    """Trains a model for two epochs; gives the run and the weights before it."""
    model = _model(drop_path_rate=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    freeze(model, freeze_parts)
    if compiled:
        model.compile(backend="eager")
    run = make_run(
        batches(4), None, *callbacks, model=model, epochs=2, optim=OptimConfig(lr=0.01, **optim)
    )
    fit(run)
    return before, run


@pytest.mark.parametrize(
    ("parts", "compiled"),
    [
        ("backbone", False),
        ("2", False),
        pytest.param("2", True, marks=pytest.mark.release),
        ("rationals,*.attn.*", False),
    ],
)
def test_training_leaves_frozen_weights_bit_equal(parts, compiled):
    seen = Modes()
    before, run = _fit(
        parts, seen, compiled=compiled, accumulate_grad_batches=2, weight_decay=0.5,
        layer_decay=0.75,
    )  # fmt: skip
    frozen = _frozen(run.model)
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, before[name]) == (name in frozen), name
    assert all(names == before.keys() - frozen for names in seen.gradients)
    # after the validation between the epochs, too
    assert len(seen.modes) == 4
    assert all(modes == seen.modes[0] for modes in seen.modes)
    expected = {"backbone": {"head"}, "2": {"blocks.2", "blocks.2.drop_path1", "head"}}
    assert expected.get(parts, {"blocks.0.drop_path1"}) <= seen.modes[0]
    out = {"backbone": {"blocks.0"}, "2": {"blocks.1.drop_path1"}}.get(parts, {"blocks.0.attn"})
    assert not out & seen.modes[0]


def test_all_heads_of_a_model_train_beside_a_frozen_backbone():
    model = timm.create_model("deit_tiny_distilled_patch16_224", num_classes=3)
    freeze(model, "backbone")
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"head.weight", "head.bias", "head_dist.weight", "head_dist.bias"}
