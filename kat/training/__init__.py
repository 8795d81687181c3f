"""Training and evaluation on Lightning's Trainer."""

from kat.training.config import ModelConfig, MonitorConfig, OptimConfig, TrainConfig
from kat.training.distributed import is_first_process
from kat.training.divergence import read_divergence
from kat.training.dry_run import Rehearsal, rehearse
from kat.training.evaluation.classification import (
    Answers,
    EvalConfig,
    Evaluation,
    evaluate,
    predict_batch,
    with_preprocessing,
)
from kat.training.evaluation.dense import DenseEvaluation, evaluate_dense
from kat.training.evaluation.diagnosis import Subject, explain, recorded_top1, suspicion
from kat.training.evaluation.real_labels import read_real_labels, real_accuracy
from kat.training.history import read_history
from kat.training.run import Summary, train
from kat.training.run_directory import read_settings, settings_to_keep
from kat.training.tasks.classification import Classifier

__all__ = [
    "Answers",
    "Classifier",
    "DenseEvaluation",
    "EvalConfig",
    "Evaluation",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "Rehearsal",
    "Subject",
    "Summary",
    "TrainConfig",
    "evaluate",
    "evaluate_dense",
    "explain",
    "is_first_process",
    "predict_batch",
    "read_divergence",
    "read_history",
    "read_real_labels",
    "read_settings",
    "real_accuracy",
    "recorded_top1",
    "rehearse",
    "settings_to_keep",
    "suspicion",
    "train",
    "with_preprocessing",
]
