"""The authors' weights, in every published form."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from kat.errors import InputError
from kat.models import init_from_vit, load_model
from tests.equality import assert_equal
from tests.models.published import official_state, published_logits

ROOT = Path(__file__).parents[3]
TINY = "kat_tiny_patch16_224"


def images(size: int = 224, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_logits(model: torch.nn.Module, expected: torch.Tensor, x: torch.Tensor) -> None:
    """float32 to 1e-5 of the largest logit, float64 to rounding."""
    with torch.inference_mode():
        single = model.eval()(x)
        double = model.double()(x.double())
    bound = expected.abs().max()
    assert (single - expected).abs().max() <= 1e-5 * bound
    assert (double - expected).abs().max() <= 1e-11 * bound


def second_variant(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The state dict with the coefficients' names of the second published variant."""
    ends = {"weight_numerator": "numerator_v", "weight_denominator": "denominator_v"}
    renamed = {}
    for name, value in state.items():
        head, _, end = name.rpartition(".")
        renamed[f"{head}.{ends[end]}" if end in ends else name] = value
    return renamed


def module(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": value for name, value in state.items()}


NOISE = {"norm.weight": torch.zeros(192)}
"""The weights that a checkpoint holds beside its EMA."""
FORMS = {
    "bare": lambda state: state,
    "state_dict_ema": lambda state: {
        "state_dict": NOISE,
        "state_dict_ema": module(second_variant(state)),
        "args": argparse.Namespace(model=TINY, lr=1e-3),
        "metric": 74.6,
    },
    "model_ema": lambda state: {"model": NOISE, "model_ema": state},
}


@pytest.fixture(scope="module")
def tiny():
    """A whole KAT-T's state dict, an image, and its logits by the formula."""
    state = official_state("tiny")
    return state, images(), published_logits(state, images())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_loads_in_every_way(tmp_path, tiny, form):
    state, x, expected = tiny
    path = tmp_path / "kat.pth"
    torch.save(FORMS[form](state), path)
    overlay = {"file": str(path)}
    ways = {
        "pretrained": timm.create_model(TINY, pretrained=True, pretrained_cfg_overlay=overlay),
        "checkpoint_path": timm.create_model(TINY, checkpoint_path=path),
        "load_model": load_model(path)[0],
    }
    start = timm.create_model(TINY)
    init_from_vit(start, path)
    for model in (*ways.values(), start):
        assert_equal(model.state_dict(), state)
    if form == "bare":  # the others have the same weights
        assert_logits(ways["pretrained"], expected, x)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["small", pytest.param("base", marks=pytest.mark.release)])
def test_small_and_base_give_the_published_logits(tmp_path, size):
    state = official_state(size, depth=2)
    path = tmp_path / "kat.pth"
    torch.save({"state_dict": second_variant(state)}, path)
    name, overlay = f"kat_{size}_patch16_224", {"file": str(path)}
    model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, depth=2)
    assert_logits(model, published_logits(state, images()), images())


def test_model_and_preprocessing_are_recognized_from_the_weights(tmp_path):
    state = official_state("tiny", classes=7, grid=4)
    path = tmp_path / "kat.safetensors"
    safetensors.torch.save_file(state, path)
    model, record = load_model(path)
    assert (record.architecture, record.input_size) == (TINY, (3, 64, 64))
    assert (record.crop_pct, record.interpolation) == (0.875, "bicubic")
    assert record.mean == pytest.approx((0.485, 0.456, 0.406))
    assert record.classes == [str(index) for index in range(7)]
    assert_logits(model, published_logits(state, images(64)), images(64))


@pytest.mark.slow
def test_other_image_sizes_and_classes(tmp_path, tiny):
    state, *_ = tiny
    path = tmp_path / "kat.pth"
    torch.save({"model": module(state)}, path)
    model = timm.create_model(
        TINY, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, img_size=64,
        num_classes=5,
    )  # fmt: skip
    grid = state["pos_embed"][:, 1:].mT.unflatten(-1, (14, 14))
    smaller = torch.nn.functional.interpolate(grid, (4, 4), mode="bicubic", antialias=True)
    positions = torch.cat([state["pos_embed"][:, :1], smaller.flatten(2).mT], 1)
    head = {name: model.state_dict()[name] for name in ("head.weight", "head.bias")}
    assert head["head.weight"].shape == (5, 192)
    adapted = {**state, "pos_embed": positions, **head}
    assert_logits(model, published_logits(adapted, images(64)), images(64))
    overlay = {"file": str(path)}
    backbone = timm.create_model(
        TINY, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0
    )
    assert torch.equal(backbone.pos_embed, state["pos_embed"])


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_the_registry_points_at_the_authors_files(size):
    for tag in ("", ".vitft"):
        config = timm.get_pretrained_cfg(f"kat_{size}_patch16_224{tag}")
        assert config.hf_hub_id == f"adamdad/kat_{size}_patch16_224{tag}"
        assert f"kat_{size}_" in config.url
    starts = {"tiny": "1f3ad3b2", "small": "32487885", "base": "abff874d"}
    url = timm.get_pretrained_cfg(f"kat_{size}_patch16_224").url
    assert url.startswith("https://huggingface.co/adamdad/kat_pretained/resolve/main/")
    assert url.rsplit("_", 1)[1].startswith(starts[size])
    assert not timm.is_model_pretrained(f"kat_{size}_gelu_patch16_224")


def test_the_weights_of_a_vit_are_refused(tmp_path):
    path = tmp_path / "vit.pth"
    torch.save(timm.create_model("vit_tiny_patch16_224").state_dict(), path)
    overlay = {"file": str(path)}
    for classes in (1000, 10):  # timm is lenient if the classes differ
        with pytest.raises(InputError, match=r"48 missing \(blocks.0.mlp.act1.weight_"):
            timm.create_model(
                TINY, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes
            )
