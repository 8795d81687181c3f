"""No coefficient has weight decay in the optimizers that timm and transformers make."""

from __future__ import annotations

import copy
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn

import kat

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


def decayed(model: nn.Module, optimizer: torch.optim.Optimizer) -> set[str]:
    """The names of the parameters that the optimizer decays."""
    groups = [group for group in optimizer.param_groups if group["weight_decay"]]
    ids = {id(parameter) for group in groups for parameter in group["params"]}
    return {name for name, parameter in model.named_parameters() if id(parameter) in ids}


def in_rationals(model: nn.Module) -> set[str]:
    """The names of their parameters, adapters among them, by what is in the state dict."""
    return {
        name for name, _ in model.named_parameters() if re.search(r"numerator|denominator", name)
    }


def timm_optimizer(model: nn.Module, **settings: float) -> torch.optim.Optimizer:
    return create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.1, **settings)


def named(name: str) -> nn.Module:
    return timm.create_model(name, num_classes=10, in_chans=1)


def vit() -> nn.Module:
    """A ViT of timm's own class, which knows nothing of rationals."""
    return timm.models.VisionTransformer(
        img_size=8, patch_size=2, in_chans=1, num_classes=10, embed_dim=64, depth=2, num_heads=2
    )


def kanified() -> nn.Module:
    model = vit()
    kat.kanify(model)
    return model


@pytest.mark.parametrize("settings", [{}, {"layer_decay": 0.8}], ids=["plain", "layer decay"])
@pytest.mark.parametrize(
    "copied", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_timm_decays_no_coefficient_of_a_kanified_model(copied, settings):
    plain, model = vit(), copied(kanified())
    assert len(in_rationals(model)) == 4
    assert decayed(model, timm_optimizer(model, **settings)) == decayed(
        plain, timm_optimizer(plain, **settings)
    )
    assert "pos_embed" in model.no_weight_decay()  # named by the class


@pytest.mark.parametrize(
    ("build", "kind"),
    [
        (kanified, "rational"),
        (kanified, "low_rank"),
        (lambda: named("kat_micro_patch2_8"), "low_rank"),
        (vit, "parallel"),
    ],
)
def test_timm_decays_no_coefficient_of_an_adapted_model(build, kind):
    model = build()
    adapters = kat.adapt(model, kind, freeze=False)
    trained = in_rationals(model)
    assert not trained & decayed(model, timm_optimizer(model))
    if kind != "parallel":
        adapters.merge()
    assert not in_rationals(model) & decayed(model, timm_optimizer(model))


def test_the_section_of_trainer_timm_and_accelerate_decays_no_coefficient(monkeypatch, tmp_path):
    pytest.importorskip("transformers", reason="transformers is not installed")
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text().split("## Trainer, timm, accelerate\n")[1].split("\n## ")[0]
    names: dict = {"__name__": "deployment"}
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
        model = names["model"]
        trainer = names.get("trainer")
        for optimizer in (names["optimizer"], trainer and trainer.optimizer):
            if optimizer is not None:
                assert decayed(model, optimizer) == {
                    "mlp.fc1.weight",
                    "mlp.fc2.weight",
                    "head.weight",
                }
    assert trainer.state.global_step == 2
