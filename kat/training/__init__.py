"""Training and evaluation on Lightning's Trainer."""

from kat.training.classification import Classifier, TrainingDiverged
from kat.training.config import ModelConfig, OptimConfig, TrainConfig
from kat.training.history import read_history
from kat.training.run import Summary, evaluate, train

__all__ = [
    "Classifier",
    "ModelConfig",
    "OptimConfig",
    "Summary",
    "TrainConfig",
    "TrainingDiverged",
    "evaluate",
    "read_history",
    "train",
]
