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

from PIL import Image
from torch import nn

from kat.deploy.freezing import quiet_import
from kat.documents import write_json
from kat.errors import InputError
from kat.extras import needed_by
from kat.models import KAT, ModelRecord
from kat.models.checkpoints.weight_files import load_weights
from kat.nn import rationals


@needed_by("a folder for transformers")
def build(model: nn.Module, record: ModelRecord) -> Any:
    """Return the same model of the class that transformers loads, in ``modeling_kat``.

    Raises:
        InputError: transformers is not installed; or the model is no KAT for classification, or has
            parameters that ``modeling_kat`` lacks.
    """
    refusal = f"{record.architecture} cannot be exported for transformers: only plain KATs can"
    if not isinstance(model, KAT):
        raise InputError(f"{refusal}, for classification and without gates")
    with quiet_import():
        from kat.deploy.formats.modeling_kat import KATConfig, KATForImageClassification

    built = KATForImageClassification(KATConfig(**_settings(model, record)))
    load_weights(built, model.state_dict(), source=f"{refusal}; this one")
    return built.eval()


def write(built: Any, record: ModelRecord, folder: Path) -> None:
    """Write the files."""
    built.config.register_for_auto_class()
    built.register_for_auto_class("AutoModelForImageClassification")
    with redirect_stderr(io.StringIO()):  # a progress bar
        built.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", _preprocessing(record))


def _settings(model: Any, record: ModelRecord) -> dict[str, Any]:
    """Return the arguments of ``KATConfig``."""
    block = model.blocks[0]
    *_, activation = rationals(model).values()
    names = dict(enumerate(record.classes))
    sizes = {
        "patch_size": model.patch_embed.patch_size,
        "num_patches": model.patch_embed.num_patches,
        "num_channels": record.input_size[0],
        "hidden_size": model.embed_dim,
        "num_hidden_layers": len(model.blocks),
        "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.fc2.in_features,
    }
    return {
        **sizes,
        "qkv_bias": block.attn.qkv.bias is not None,
        "numerator": activation.weight_numerator.shape,
        "denominator": activation.weight_denominator.shape,
        "form": activation.form,
        "layer_norm_eps": block.norm1.eps,
        "id2label": names,
        "label2id": dict(zip(record.classes, names, strict=True)),
    }


def _preprocessing(record: ModelRecord) -> dict[str, Any]:
    """Return the contents of preprocessor_config.json."""
    _, height, width = record.input_size
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": len(record.mean) == 3,
        "size": {"shortest_edge": math.floor(min(height, width) / record.crop_pct)},
        "resample": Image.Resampling[record.interpolation.upper()],
        "crop_size": {"height": height, "width": width},
        "image_mean": record.mean,
        "image_std": record.std,
    }
