"""Training and evaluation: settings, the training loop, tasks, sweeps."""

from typing import TYPE_CHECKING

from kat.extras import on_first_use

_NAMES = {
    ".callbacks.divergence": "read_divergence",
    ".config": "LossConfig ModelConfig MonitorConfig OptimConfig TrainConfig",
    ".cluster.processes": "is_first_process",
    ".engine.dry_run": "DryRun measure_dry_run",
    ".evaluation.evaluate": "evaluate",
    ".record.run_directory": "read_history read_settings settings_to_keep",
    ".tasks.evaluation": "EvalConfig Evaluation Prediction",
    ".engine.trainer": "Summary train",
}
if TYPE_CHECKING:
    from kat.training.callbacks.divergence import read_divergence
    from kat.training.cluster.processes import is_first_process
    from kat.training.config import (
        LossConfig,
        ModelConfig,
        MonitorConfig,
        OptimConfig,
        TrainConfig,
    )
    from kat.training.engine.dry_run import DryRun, measure_dry_run
    from kat.training.engine.trainer import Summary, train
    from kat.training.evaluation.evaluate import evaluate
    from kat.training.record.run_directory import read_history, read_settings, settings_to_keep
    from kat.training.tasks.evaluation import EvalConfig, Evaluation, Prediction
else:
    __getattr__, __dir__ = on_first_use(__name__, "train", _NAMES)

__all__ = [
    "DryRun",
    "EvalConfig",
    "Evaluation",
    "LossConfig",
    "ModelConfig",
    "MonitorConfig",
    "OptimConfig",
    "Prediction",
    "Summary",
    "TrainConfig",
    "evaluate",
    "is_first_process",
    "measure_dry_run",
    "read_divergence",
    "read_history",
    "read_settings",
    "settings_to_keep",
    "train",
]
