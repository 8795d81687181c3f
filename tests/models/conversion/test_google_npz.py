"""Google's .npz files, written here from timm's ViTs."""

from __future__ import annotations

import numpy as np
import pytest
import timm
from timm.models.vision_transformer import VisionTransformer

from kat.errors import InputError
from kat.models import convert_vit, read_vit
from tests.models.conversion.vits import SMALL, TINY, distance, trained


def google_npz(vit: VisionTransformer, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a ViT in Google's JAX files."""
    state = {name: value.numpy() for name, value in vit.state_dict().items()}
    heads, width = vit.blocks[0].attn.num_heads, vit.embed_dim
    split = (heads, width // heads)
    arrays = {
        "cls": state["cls_token"],
        "embedding/kernel": state["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": state["patch_embed.proj.bias"],
        "Transformer/posembed_input/pos_embedding": state["pos_embed"],
        "Transformer/encoder_norm/scale": state["norm.weight"],
        "Transformer/encoder_norm/bias": state["norm.bias"],
        "head/kernel": state["head.weight"].T,
        "head/bias": state["head.bias"],
        "pre_logits/kernel": np.zeros((width, width), np.float32),
    }
    for index in range(len(vit.blocks)):
        at, to = f"blocks.{index}", f"Transformer/encoderblock_{index}"
        for norm, name in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{to}/{name}/scale"] = state[f"{at}.{norm}.weight"]
            arrays[f"{to}/{name}/bias"] = state[f"{at}.{norm}.bias"]
        attention = f"{to}/MultiHeadDotProductAttention_1"
        weights = np.split(state[f"{at}.attn.qkv.weight"], 3)
        biases = np.split(state[f"{at}.attn.qkv.bias"], 3)
        for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            arrays[f"{attention}/{name}/kernel"] = weight.T.reshape(width, *split)
            arrays[f"{attention}/{name}/bias"] = bias.reshape(split)
        arrays[f"{attention}/out/kernel"] = state[f"{at}.attn.proj.weight"].T.reshape(*split, width)
        arrays[f"{attention}/out/bias"] = state[f"{at}.attn.proj.bias"]
        for layer in (0, 1):
            dense = f"{to}/MlpBlock_3/Dense_{layer}"
            arrays[f"{dense}/kernel"] = state[f"{at}.mlp.fc{layer + 1}.weight"].T
            arrays[f"{dense}/bias"] = state[f"{at}.mlp.fc{layer + 1}.bias"]
    return {f"{prefix}{name}": value for name, value in arrays.items()}


@pytest.mark.parametrize("prefix", ["", "opt/target/"])
def test_googles_npz(tmp_path, prefix):
    vit = trained(timm.create_model("vit_tiny_patch16_224", **SMALL, num_classes=21))
    np.savez(tmp_path / "Ti_16.npz", **google_npz(vit, prefix))
    model, record, report = convert_vit(tmp_path / "Ti_16.npz", TINY, args=SMALL)
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == [f"{prefix}pre_logits/kernel"]
    assert (record.mean, record.std, record.crop_pct) == ((0.5,) * 3, (0.5,) * 3, 0.9)
    assert read_vit(tmp_path / "Ti_16.npz").num_heads == 3


def test_damaged_npz_files_are_named(tmp_path):
    vit = timm.create_model("vit_tiny_patch16_224", **SMALL)
    arrays = google_npz(vit)
    missing = {k: v for k, v in arrays.items() if "encoderblock_1/MlpBlock" not in k}
    np.savez(tmp_path / "missing.npz", **missing)
    np.savez(tmp_path / "foreign.npz", x=np.zeros(3))
    np.savez(tmp_path / "code.npz", **{**arrays, "head/bias": np.array([print])})
    np.savez(tmp_path / "cut.npz", **arrays)
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.npz").write_bytes(b"")
    for name in ("missing", "foreign", "code", "cut", "empty"):
        with pytest.raises(InputError, match=r"not a ViT in Google's \.npz format, or not compl"):
            read_vit(tmp_path / f"{name}.npz")
    with pytest.raises(InputError, match=r"none\.npz does not exist"):
        read_vit(tmp_path / "none.npz")
