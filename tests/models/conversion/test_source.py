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


def test_the_authors_own_names(tmp_path):
    args = {"patch_size": 14, "img_size": 42, "depth": 2}
    vit = trained(timm.create_model("vit_small_patch14_reg4_dinov2", **args))
    torch.save(facebook_dinov2(vit), tmp_path / "vit.pth")
    # Nothing in the file names these.
    needs = {"init_values": 1e-5, "no_embed_class": True, "reg_tokens": 4}
    model, _, report = convert_vit(
        tmp_path / "vit.pth", "kat_small_patch16_224", args={**args, **needs}
    )
    assert max(distance(model, vit)) <= 1e-2
    assert report.dropped == ["mask_token"]


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
