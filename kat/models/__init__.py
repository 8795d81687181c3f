"""KAT models, registered with timm on import, and how they are stored."""

from kat.models import micro
from kat.models.card import TrainingRecord
from kat.models.checkpoint import (
    ModelRecord,
    build_model,
    create_model,
    init_from_vit,
    load_model,
    load_weights,
    read_training_checkpoint,
    save_model,
)
from kat.models.hub import from_pretrained, push_to_hub, save_pretrained
from kat.models.kat import KAT, rational_parameter_names

__all__ = [
    "KAT",
    "ModelRecord",
    "TrainingRecord",
    "build_model",
    "create_model",
    "from_pretrained",
    "init_from_vit",
    "load_model",
    "load_weights",
    "micro",
    "push_to_hub",
    "rational_parameter_names",
    "read_training_checkpoint",
    "save_model",
    "save_pretrained",
]
