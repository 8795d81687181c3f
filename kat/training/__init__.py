"""Training and evaluation on Lightning's Trainer."""

from kat.training.classification import Classifier
from kat.training.config import ModelConfig, MonitorConfig, OptimConfig, TrainConfig
from kat.training.divergence import read_divergence
from kat.training.dry_run import Rehearsal, rehearse
from kat.training.evaluation import evaluate
from kat.training.folder import read_settings, settings_to_keep
from kat.training.history import read_history
from kat.training.processes import is_first_process
from kat.training.run import Summary, train

__all__ = [
    "Classifier",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "Rehearsal",
    "Summary",
    "TrainConfig",
    "evaluate",
    "is_first_process",
    "read_divergence",
    "read_history",
    "read_settings",
    "rehearse",
    "settings_to_keep",
    "train",
]
