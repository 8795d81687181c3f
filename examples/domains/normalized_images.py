"""Images and depth: parts 3 and 4 of normalized_study.py, whose arms are models of timm here.

An arm is the KAT of a recipe whose rationals are replaced after its initialization; it trains with
the recipe, as in `kat ablate paper:models` and `paper:depth`.
"""

from __future__ import annotations

import math
import time
from typing import Any

import timm
import torch
from extra import needed
from torch import Tensor, nn

with needed():
    from normalized import normalize
    from runner import Domain, Trial
    from torchvision.transforms.functional import to_tensor

    import kat
    from kat.data import DataConfig, open_split
    from kat.errors import TrainingDiverged
    from kat.models import KAT, load_model
    from kat.models.timm_registry import register
    from kat.training import read_history
    from kat.training.evaluation.evaluate import read_test, write_test

RECIPES = {"fashion-mnist": ("fashion_mnist", "_patch7_28"), "digits": ("digits", "_patch2_8")}
"""By task: the recipe, and the suffix of the model's name."""
EPOCHS = {"fashion-mnist": (20, 10), "digits": (40, 40)}
"""By task: the epochs of a test and of a tuning run, as in `kat ablate` of these recipes."""
IMAGES = 256
"""How many held-out training images the second moments are taken over."""


class NormalizedKAT(KAT):
    """A KAT with the rationals of an arm of :mod:`normalized`."""

    def __init__(self, *, arm: str = "plain", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for block in self.blocks:
            normalize(block.mlp, arm)

    def no_weight_decay(self) -> set[str]:
        """The names that KAT gives, and the names of the coefficients."""
        names = {name for name, _ in self.named_parameters() if ".mlp.act" in name}
        return super().no_weight_decay() | names


for _, _suffix in RECIPES.values():
    _like = timm.get_pretrained_cfg(f"kat_micro{_suffix}").to_dict()
    _side = _like["input_size"][-1]
    _args = {"img_size": _side, "patch_size": int(_suffix.split("_")[1].removeprefix("patch"))}
    _args |= {"embed_dim": 64, "depth": 4, "num_heads": 4}
    register(
        __name__, f"normalized{_suffix}", NormalizedKAT, _args, {f"normalized{_suffix}": _like}
    )

IMAGE_DOMAIN = Domain(
    doc=__doc__, name="images", tasks=list(RECIPES), rates={}, steps=20, columns=("curve",)
)
DEPTH_DOMAIN = Domain(
    doc=__doc__, name="depth", tasks=["fashion-mnist"], rates={}, steps=3,
    columns=("loss", "curve", "diverged", "moments_start", "moments_end"), measures=("valid",),
)  # fmt: skip


def run(trial: Trial) -> tuple[nn.Module, dict[str, Any]]:
    """Train on images for ``trial.steps`` epochs, or fewer when tuning; errors in percent."""
    epochs = min(trial.steps, EPOCHS[trial.task][1]) if trial.tuning else trial.steps
    model, row = _train(trial, epochs, {"arm": trial.arm}, {"data.validate_on": "holdout"})
    if not trial.tuning:
        write_test(row["out"], str(trial.device))
        row["test"] = 100 - read_test(row["out"])["test_top1"]
    return model, row


def run_deep(trial: Trial) -> tuple[nn.Module, dict[str, Any]]:
    """Train 24 blocks without a norm before the MLP; record the second moments of their output.

    Errors and losses are measured on held-out training images. They are NaN if the run diverges.
    """
    args = {"arm": trial.arm, "depth": 24, "mlp_norm": False}
    torch.manual_seed(trial.seed)
    model = timm.create_model("normalized_patch7_28", in_chans=1, num_classes=10, **args)
    moments = {"moments_start": _moments(model)}
    start = time.perf_counter()
    try:
        model, row = _train(trial, trial.steps, args, {"data.validate_on": "holdout"})
        moments["moments_end"] = _moments(model)
    except TrainingDiverged as error:
        reason = str(error).partition(" The state before it")[0]
        row = {"valid": math.nan, "loss": math.nan, "diverged": reason}
        row["seconds"] = time.perf_counter() - start
    return model, {**row, **moments}


def _train(
    trial: Trial, epochs: int, args: dict[str, Any], settings: dict[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    recipe, suffix = RECIPES[trial.task]
    settings |= {"model.args": args, "model.compile": True}
    settings |= {"optim.lr": trial.rate, "progress": False}
    out = trial.checkpoint.with_suffix("")
    summary = kat.train(
        recipe, model=f"normalized{suffix}", out=out, epochs=epochs, seed=trial.seed,
        device=str(trial.device), resume="auto", settings=settings,
    )  # fmt: skip
    history = read_history(out)
    curve = [(int(row["epoch"]), row["top1"]) for row in history]
    row = {"valid": 100 - summary.metrics["top1"], "loss": history[-1]["val_loss"]}
    row |= {"seconds": summary.seconds, "curve": curve, "out": out}
    return load_model(out)[0], row


@torch.no_grad()
def _moments(model: nn.Module) -> str:
    """The second moment of the output of each block over held-out training images."""
    images = open_split(DataConfig("fashion_mnist", validate_on="holdout"), "val")
    batch = torch.stack([to_tensor(images[i][0]) for i in range(IMAGES)]) * 2 - 1
    found: list[str] = []

    def keep(block: nn.Module, given: Any, y: Tensor) -> None:
        found.append(f"{y.square().mean().item():.3g}")

    handles = [block.register_forward_hook(keep) for block in model.blocks]
    model.eval()(batch)
    for handle in handles:
        handle.remove()
    return " ".join(found)
