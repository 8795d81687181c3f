"""KAT models, registered with timm; their checkpoints, conversion, and kanify.

Kanify needs torch alone, all else the extra ``[vision]``.

Examples:
    >>> import timm
    >>> import kat
    >>> timm.list_models("kat_tiny*")
    ['kat_tiny_gelu_patch16_224', 'kat_tiny_patch16_224', 'kat_tiny_swish_patch16_224']
    >>> model = kat.models.create_model("kat_micro", num_classes=10)
"""

import importlib
import importlib.util
import warnings
from typing import TYPE_CHECKING

from kat.errors import first_line
from kat.extras import PROJECT, on_first_use

_NAMES = {
    ".": "baselines dense micro",
    ".baseline_mlps": "FixedMlp SwiGLUMlp",
    ".checkpoints.hub": "TrainingRecord from_pretrained save_pretrained",
    ".checkpoints.model_record": "ModelRecord build_model create_model input_args"
    " registered_preprocessing",
    ".checkpoints.storage": "is_model_folder load_model read_training_checkpoint save_model",
    ".checkpoints.weight_files": "load_weights read_state_dict",
    ".conversion.convert": "convert_vit init_from_vit",
    ".conversion.report": "Conversion Movement",
    ".conversion.source": "ViTSource read_vit",
    ".kat": "KAT GatedKAT",
    ".pretrained": "load_pretrained",
    ".vit": "KANViT SwiGLUViT ViT",
    "kat.nn": "rational_parameter_names",
}
if TYPE_CHECKING:
    from kat.models import baselines, dense, micro
    from kat.models.baseline_mlps import FixedMlp, SwiGLUMlp
    from kat.models.checkpoints.hub import TrainingRecord, from_pretrained, save_pretrained
    from kat.models.checkpoints.model_record import (
        ModelRecord,
        build_model,
        create_model,
        input_args,
        registered_preprocessing,
    )
    from kat.models.checkpoints.storage import (
        is_model_folder,
        load_model,
        read_training_checkpoint,
        save_model,
    )
    from kat.models.checkpoints.weight_files import load_weights, read_state_dict
    from kat.models.conversion.convert import convert_vit, init_from_vit
    from kat.models.conversion.report import Conversion, Movement
    from kat.models.conversion.source import ViTSource, read_vit
    from kat.models.kat import KAT, GatedKAT
    from kat.models.pretrained import load_pretrained
    from kat.models.vit import KANViT, SwiGLUViT, ViT
    from kat.nn import rational_parameter_names
else:
    __getattr__, __dir__ = on_first_use(__name__, "vision", _NAMES)

__all__ = [
    "KAT", "Conversion", "FixedMlp", "GatedKAT", "KANViT", "ModelRecord", "Movement", "SwiGLUMlp",
    "SwiGLUViT", "TrainingRecord", "ViT", "ViTSource", "baselines", "build_model", "convert_vit",
    "create_model", "dense", "from_pretrained", "init_from_vit", "input_args", "is_model_folder",
    "load_model", "load_pretrained", "load_weights", "micro", "rational_parameter_names",
    "read_state_dict", "read_training_checkpoint", "read_vit", "registered_preprocessing",
    "save_model", "save_pretrained",
]  # fmt: skip


def _register_models() -> None:
    """Register the models with timm, where it is installed.

    A timm that is too old or broken is a warning: the rest of the library needs only torch.
    """
    if importlib.util.find_spec("timm") is None:
        return
    try:
        importlib.import_module("kat.models.registered")
    except Exception as error:  # a torchvision for another torch raises RuntimeError, for instance
        warnings.warn(
            f"kat's models are not registered with timm: {first_line(error)};"
            f' pip install "{PROJECT}[vision]" installs a timm that they work with',
            stacklevel=2,
        )


_register_models()
