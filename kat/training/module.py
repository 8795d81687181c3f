"""What all tasks share as Lightning modules: average, history, checkpoints, optimiser, schedule."""

from __future__ import annotations

import dataclasses
import sys
from abc import abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric

from kat.data import Batch, DevicePreparation
from kat.errors import InputError
from kat.models import ModelRecord
from kat.training.config import TrainConfig
from kat.training.distributed import gather
from kat.training.ema import WeightAverage, assign
from kat.training.freeze import frozen_to_eval
from kat.training.history import logged_columns
from kat.training.nonfinite import Attempt, random_state
from kat.training.optimizer import make_optimizer, make_schedule, optimizer_layout
from kat.training.sharding import shard
from kat.training.tasks.metrics import Score, Scores, metric_state, set_metric_state


class TaskModule(LightningModule):
    """Trains and validates a model; a subclass says what the loss is, and how answers are scored.

    Args:
        model: what is trained.
        record: describes the model; stored in every checkpoint.
        config: the run's settings.
        random_erasing: probability that an image to train on loses a rectangle.
    """

    scores: ClassVar[tuple[Score, ...]]
    """What a validation gives beside the loss; the highest of the first chooses what is kept."""

    def __init__(
        self,
        model: nn.Module,
        record: ModelRecord,
        config: TrainConfig,
        random_erasing: float = 0.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters({"record": dataclasses.asdict(record)}, logger=False)
        self.model = model
        self.classes = record.classes
        self.config = config
        self.layout = optimizer_layout(model, config.optim)
        self.prepare = DevicePreparation(record.mean, record.std, random_erasing)
        self.train_loss = MeanMetric(nan_strategy="disable")
        self.val_images = SumMetric()
        self.kept_scores, self.raw_scores = self.make_scores(record), self.make_scores(record)
        self.average: WeightAverage | None = None
        """What is validated and kept in the place of the weights, where there is one."""
        self.history: list[dict[str, float]] = []
        """One row an epoch, as history.csv has them."""
        self.skipped: dict[str, str] = {}
        """The files that were left out, and why."""
        self.attempt: Attempt | None = None
        """The last forward pass, until its outcome is checked."""

    @abstractmethod
    def make_scores(self, record: ModelRecord) -> Scores:
        """What counts the answers of a validation, by what the model answers."""

    @abstractmethod
    def loss(self, output: Any, labels: Any) -> Tensor:
        """The mean loss over a batch, of what the model gives in training."""

    def mixed(self, images: Any, labels: Any) -> tuple[Any, Any]:
        """The images and labels of a batch as they are trained on."""
        return images, labels

    def arguments(self, images: Any, labels: Any) -> tuple[Any, ...]:
        """What the model is called with in training."""
        return (images,)

    def configure_model(self) -> None:
        """Cuts the weights into shares, if the strategy is to."""
        mesh = self.device_mesh
        if mesh is not None:
            shard(self.model, mesh["data_parallel"])

    def on_fit_start(self) -> None:
        """Starts the average; that of a resumed run follows the model to its device."""
        if self.average is not None:
            self.average.to_device()
        elif self.config.optim.ema_decay > 0:
            self.average = WeightAverage(self.model, self.config.optim.ema_decay)

    def train(self, mode: bool = True) -> TaskModule:
        """Sets the mode; what is frozen stays in eval mode."""
        super().train(mode)
        frozen_to_eval(self.model)
        return self

    def forward(self, images: Any) -> Any:
        """What the model says of a batch of images."""
        return self.model(images)

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Normalises the images, and erases rectangles of those to train on."""
        seeds = batch.seeds if self.training else ()
        if isinstance(batch.images, Tensor):
            return batch._replace(images=self._laid_out(self.prepare(batch.images, seeds)))
        images = [self._laid_out(self.prepare(image[None]))[0] for image in batch.images]
        return batch._replace(images=images)

    def _laid_out(self, images: Tensor) -> Tensor:
        """In the precision of the run, and as the settings have it in memory."""
        if self.config.model.channels_last and images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        return images.to(self.dtype)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a batch, as its task defines it."""
        self._report(batch.unreadable)
        if len(batch.labels) == 0:
            raise InputError(f"no image of a batch can be read, first {batch.unreadable[0][0]}")
        images, labels = self.mixed(batch.images, batch.labels)
        forward = partial(self.model, *self.arguments(images, labels))
        random = random_state(self.device)
        loss = self.loss(forward(), labels)
        self.attempt = Attempt(images, loss.detach(), random, forward)
        self.train_loss.update(loss.detach().expand(len(labels)))
        self.log("train/loss_step", loss, on_step=True, on_epoch=False)
        return loss

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Takes the step, and its weights into their average."""
        super().optimizer_step(*args, **kwargs)
        if self.average is not None:
            self.average.update()

    def on_train_epoch_end(self) -> None:
        """Logs the mean loss of the epoch, and adds its row to the history."""
        loss = self.train_loss.compute()
        self.train_loss.reset()
        self.log("train/loss", loss)
        for skipped in gather(self.skipped):
            self.skipped |= skipped
        metrics = {**self.trainer.callback_metrics, "train/loss": loss}
        logged = logged_columns(score.name for score in self.scores)
        values = {
            column: metrics[name].item() for name, column in logged.items() if name in metrics
        }
        self.history.append({"epoch": self.current_epoch + 1, **values})

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor | None:
        """Scores the answers; every readable image counts once. Gives the batch's mean loss."""
        self._report(batch.unreadable)
        self.val_images.update(len(batch.labels))
        if len(batch.labels) == 0:
            return None
        if self.average is not None:
            self.raw_scores.update(self(batch.images), batch.labels)
        with self.kept_weights():
            return self.kept_scores.update(self(batch.images), batch.labels)

    def kept_weights(self) -> AbstractContextManager[None]:
        """Has the model compute with the weights that are kept: their average, if there is one."""
        return nullcontext() if self.average is None else self.average.swapped()

    def on_validation_epoch_end(self) -> None:
        """Logs loss and scores: of the average, where there is one, and of the weights themselves
        then as raw. The first time it prints what there is to know of the data."""
        if self.val_images.compute() == 0:  # of all processes; one alone may have none
            raise InputError("the validation split has no image that can be read")
        for name, value in self.kept_scores.compute().items():
            self.log(f"val/{name}", value, prog_bar=name == self.scores[0].name)
        if self.average is not None:
            for name, value in self.raw_scores.compute().items():
                self.log(f"val/raw_{name}", value)
        for note in self.kept_scores.notes(self.classes) if not self.history else ():
            self.print(note)
        for metric in (self.kept_scores, self.raw_scores, self.val_images):
            metric.reset()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds what a resumed run needs; the average takes the place of the weights.

        These are then under raw_state_dict.
        """
        own = {"train_loss": metric_state(self.train_loss), "skipped": self.skipped}
        checkpoint["processes"] = gather(own)
        checkpoint["history"] = self.history
        checkpoint["optimizer"] = self.layout
        if self.average is not None:
            weights, average = checkpoint["state_dict"], self.average.state()
            kept = {
                name: average.get(name.removeprefix("model."), weights[name]) for name in weights
            }
            checkpoint |= {"raw_state_dict": weights, "average_steps": self.average.steps}
            checkpoint["state_dict"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Goes on with what :meth:`on_save_checkpoint` has added."""
        self.history = checkpoint["history"]
        processes = checkpoint["processes"]
        for process in processes:
            self.skipped |= process["skipped"]
        states = [process["train_loss"] for process in processes]
        if len(states) != self.trainer.world_size:
            total = {name: sum(state[name] for state in states) for name in states[0]}
            states = [total] + [{}] * (self.trainer.world_size - 1)
        set_metric_state(self.train_loss, states[self.global_rank])
        self._load_weights(checkpoint)

    def _load_weights(self, checkpoint: dict[str, Any]) -> None:
        """The average is what a checkpoint has as its weights; training goes on with the raw.

        A strategy that cuts the weights has loaded the former, and taken them out, by now.
        """
        kept = checkpoint.get("state_dict")
        if self.config.optim.ema_decay > 0:
            self.average = WeightAverage(self.model, self.config.optim.ema_decay)
            self.average.load(_own(kept or {}), checkpoint.get("average_steps", 0))
        raw = checkpoint.pop("raw_state_dict", None)
        if raw is None:
            return
        if kept is not None:
            checkpoint["state_dict"] = raw
        for name, tensor in self.model.state_dict().items():
            assign(tensor, _own(raw)[name])

    def configure_optimizers(self) -> Any:
        """The optimiser and its schedule, as the settings say."""
        optim = self.config.optim
        optimizer = make_optimizer(self.model, optim)
        steps = int(self.trainer.estimated_stepping_batches)
        scheduler = make_schedule(optimizer, optim, self.config.epochs, steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """timm's schedulers are functions of the number of steps taken."""
        scheduler.step_update(self.trainer.global_step)

    def _report(self, unreadable: list[tuple[str, str]]) -> None:
        for path, reason in unreadable:
            if self.config.data.bad_images == "fail":
                raise InputError(f"{path} cannot be read as an image: {reason}")
            self.skip(path, f"it cannot be read as an image: {reason}")

    def skip(self, path: str, reason: str) -> None:
        """Names a file that is left out, once."""
        if path not in self.skipped:
            self.skipped[path] = reason
            sys.stdout.write(f"skipped {path}: {reason}\n")


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's weights by the model's own names."""
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}
