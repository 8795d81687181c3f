"""A folder that transformers loads with ``trust_remote_code=True``, without kat.

It has config.json, model.safetensors, preprocessor_config.json, and copies of the modules
``configuration_kat`` and ``modeling_kat`` beside this one, which import torch and transformers
alone.
"""

from __future__ import annotations

import io
import math
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from torch import nn

from kat.deploy.freezing import quiet_import
from kat.documents import write_json
from kat.errors import InputError
from kat.extras import needed_by
from kat.models import KAT, GatedKAT, ModelRecord
from kat.models.checkpoints.weight_files import check_match
from kat.nn import rationals

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic")
"""In the order of Pillow's numbers."""


@needed_by("a folder for transformers")
def write(model: nn.Module, record: ModelRecord, folder: Path) -> nn.Module:
    """Writes the files.

    Returns:
        The model that transformers reads from the folder. It runs the modules beside this one.

    Raises:
        InputError: transformers is not installed; or the model is no KAT for classification, or has
            weights that ``modeling_kat`` lacks.
    """
    if not isinstance(model, KAT | GatedKAT):
        raise InputError(
            f"{record.architecture} cannot be exported for transformers: only KATs for"
            " classification can, kat_* and kat_glu_*"
        )
    with quiet_import():
        from kat.deploy.formats.modeling_kat import KATConfig, KATForImageClassification

    KATConfig.register_for_auto_class()
    KATForImageClassification.register_for_auto_class("AutoModelForImageClassification")
    built = KATForImageClassification(KATConfig(**_settings(model, record)))
    state = model.state_dict().items()
    weights = {name.replace("fc_norm.", "norm."): weight for name, weight in state}
    source = f"only plain KATs can be exported for transformers; this {record.architecture}"
    check_match(built, weights, source)
    built.load_state_dict(weights)
    with redirect_stderr(io.StringIO()):  # progress bars
        built.save_pretrained(folder)
        write_json(folder / "preprocessor_config.json", _preprocessing(record))
        return KATForImageClassification.from_pretrained(folder)


def _settings(model: Any, record: ModelRecord) -> dict[str, Any]:
    """The arguments of ``KATConfig``."""
    block = model.blocks[0]
    activations = list(rationals(model).values())
    has_first = len(activations) == 2 * len(model.blocks)
    activation = activations[-1]
    names = dict(enumerate(record.classes))
    rational = {
        "first_groups": activations[0].num_groups if has_first else 0,
        "num_groups": activation.num_groups,
        "degree": activation.degree,
        "form": activation.form,
        "share": activation.share,
    }
    return {
        **rational,
        "image_size": record.input_size[1:],
        "patch_size": model.patch_embed.patch_size,
        "num_channels": record.input_size[0],
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc2.in_features,
        "qkv_bias": block.attn.qkv.bias is not None,
        "gated": isinstance(model, GatedKAT),
        "class_token": model.has_class_token,
        "global_pool": model.global_pool,
        "layer_norm_eps": block.norm1.eps,
        "id2label": names,
        "label2id": dict(zip(record.classes, names, strict=True)),
    }


def _preprocessing(record: ModelRecord) -> dict[str, Any]:
    """The contents of preprocessor_config.json."""
    _, height, width = record.input_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": len(record.mean) == 3,
        "size": {"shortest_edge": math.floor(min(height, width) / record.crop_pct)},
        "resample": _RESAMPLE.index(record.interpolation),
        "crop_size": {"height": height, "width": width},
        "image_mean": record.mean,
        "image_std": record.std,
    }
