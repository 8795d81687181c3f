"""The choices of figures and checks on the command line, which are read without torch."""

from __future__ import annotations

from itertools import chain

from kat.training.tasks.registry import TASKS

ANIMATED = (".gif", ".mp4")
"""The endings of files that hold an animation."""
COSTS = {
    "parameters": ("parameters", "parameters"),
    "flops": ("flops", "FLOPs per image"),
    "seconds": (
        "seconds",
        "seconds of a training run\n(runs that went side by side slowed each other down)",
    ),
    "memory": ("memory_bytes", "peak memory of a training process (bytes)"),
}
"""The costs of a model: columns of a table of runs, and titles."""
_METRICS = chain.from_iterable(task.metrics for task in TASKS.values())
BY_NAME = {metric.name: metric for metric in _METRICS}
"""The metrics of validation of all tasks, in per cent."""
_VALIDATED = {
    "val_loss": "validation loss",
    **{name: f"validation {metric.label} (%)" for name, metric in BY_NAME.items()},
}
COLUMNS = {
    "train_loss": "training loss",
    **_VALIDATED,
    **{f"raw_{name}": f"{title}, without EMA" for name, title in _VALIDATED.items()},
}
"""The columns of a history that have a curve, and their titles."""
PANELS = {
    "loss": ("loss", {"train_loss": ":", "val_loss": "-"}),
    **{column: (title, {column: "-"}) for column, title in COLUMNS.items()},
}
"""The title and the lines of each panel of learning curves."""
