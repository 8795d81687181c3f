"""The task of a model."""

from torch import nn

DEFAULT_TASK = "classification"
"""The task of a model that does not name its own."""


def task_of(model: nn.Module) -> str:
    """Return the task of a model; classification for a model without the attribute.

    Examples:
        >>> import torch
        >>> import kat
        >>> from kat.models.dense import task_of
        >>> task_of(kat.models.create_model("kat_det_micro")), task_of(torch.nn.Linear(2, 2))
        ('detection', 'classification')
    """
    return getattr(model, "task", DEFAULT_TASK)
