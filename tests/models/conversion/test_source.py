"""Sources of trained ViTs: files with and without a record, and the authors' own names."""

from __future__ import annotations

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from kat.errors import InputError
from kat.models import convert_vit, init_from_vit, read_vit
from tests.models.conversion.vits import distance, trained


def facebook_dinov2(vit: nn.Module) -> dict[str, torch.Tensor]:
    """DINOv2 with registers, by its authors' names."""
    state = dict(vit.state_dict())
    state["register_tokens"] = state.pop("reg_token")
    first = torch.full((1, 1, vit.embed_dim), 0.3)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    state["cls_token"] = state["cls_token"] - first
    state["mask_token"] = torch.zeros(1, vit.embed_dim)
    return state


def facebook_deit3(vit: nn.Module) -> dict[str, torch.Tensor]:
    """DeiT III, by its authors' names."""
    state = vit.state_dict()
    return {
        "model": {
            name.replace("ls1.gamma", "gamma_1").replace("ls2.gamma", "gamma_2"): value
            for name, value in state.items()
        }
    }


@pytest.mark.parametrize(
    ("name", "rename"),
    [
        ("vit_small_patch14_reg4_dinov2", facebook_dinov2),
        ("deit3_small_patch16_224", facebook_deit3),
    ],
)
def test_the_authors_own_names(tmp_path, name, rename):
    args = {"patch_size": 14, "img_size": 42} if "dinov2" in name else {"img_size": 48}
    vit = trained(timm.create_model(name, depth=2, **args))
    torch.save(rename(vit), tmp_path / "vit.pth")
    needs = {"init_values": 1e-5, "no_embed_class": True}  # nothing in the file names them
    if "dinov2" in name:
        needs["reg_tokens"] = 4
    model, _, report = convert_vit(
        tmp_path / "vit.pth", "kat_small_patch16_224", args={**args, **needs, "depth": 2}
    )
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == (["mask_token"] if "dinov2" in name else [])


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_file_without_a_record(tmp_path, suffix):
    vit = trained(timm.create_model("vit_micro"))
    path = tmp_path / f"vit{suffix}"
    if suffix == ".pth":
        torch.save({"model": {f"module.{k}": v for k, v in vit.state_dict().items()}}, path)
    else:
        safetensors.torch.save_file(vit.state_dict(), path)
    model = timm.create_model("kat_micro").eval()
    init_from_vit(model, str(path))
    assert max(distance(model, vit)) <= 1e-2


def test_an_npz_file_is_read_by_timm(tmp_path):
    with pytest.raises(InputError, match=r"give the name of timm's model of these weights"):
        read_vit(tmp_path / "Ti_16.npz")
