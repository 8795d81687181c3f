"""The parts of training: schedule, decay, average of the weights, mixing, what is left out."""

from __future__ import annotations

import math

import pytest
import timm
import torch
from kat.training.ema import WeightAverage
from kat.training.optimizer import make_optimizer
from lightning.pytorch import Callback, Trainer

from kat.data import AugmentConfig, Batch, DataConfig
from kat.errors import InputError
from kat.models import rational_parameter_names
from kat.training import Classifier, ModelConfig, OptimConfig, TrainConfig
from tests.training.small import RECORD, batches


def _classifier(**settings):
    torch.manual_seed(0)
    model = timm.create_model("kat_micro_patch2_8", in_chans=1)
    return Classifier(model, RECORD, TrainConfig(**settings))


def _fit(classifier, batches, *callbacks, **options):
    trainer = Trainer(
        max_epochs=classifier.config.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **options,
    )
    loader = torch.utils.data.DataLoader(batches, batch_size=None)
    trainer.fit(classifier, loader, loader)
    return trainer


class Rates(Callback):
    """The learning rate that each step used."""

    def __init__(self):
        self.values = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.values.append(optimizer.param_groups[0]["lr"])


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
def test_learning_rate_warms_up_linearly_and_ends_on_the_cosine():
    optim = OptimConfig(lr=1e-3, min_lr=1e-5, warmup_lr=1e-6, warmup_epochs=1)
    classifier, rates = _classifier(epochs=4, optim=optim), Rates()
    _fit(classifier, batches(5), rates)
    warm = [1e-6 + step / 5 * (1e-3 - 1e-6) for step in range(5)]
    cosine = [
        1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(5, 20)
    ]
    assert rates.values == pytest.approx(warm + cosine)


def test_decay_spares_norms_biases_embeddings_and_rationals():
    model = timm.create_model("kat_micro")
    optimizer = make_optimizer(model, OptimConfig(weight_decay=0.1, betas=(0.8, 0.9)))
    names = {id(p): n for n, p in model.named_parameters()}
    decayed = {
        names[id(p)] for g in optimizer.param_groups if g["weight_decay"] for p in g["params"]
    }
    assert {g["betas"] for g in optimizer.param_groups} == {(0.8, 0.9)}
    assert not decayed & (rational_parameter_names(model) | {"pos_embed", "cls_token"})
    assert not [name for name in decayed if name.endswith("bias") or "norm" in name]
    assert {"head.weight", "blocks.1.attn.qkv.weight"} <= decayed
    with pytest.raises(InputError, match="optimiser 'fusedadam' cannot be used"):
        make_optimizer(model, OptimConfig(name="fusedadam"))


def test_average_of_the_weights_warms_up_to_its_decay():
    """d = min(decay, (1 + t) / (10 + t)) with t steps taken."""
    model = torch.nn.Linear(1, 1, bias=False)
    for steps, kept in ((0, 0.1), (8, 0.5), (10_000, 0.9)):
        torch.nn.init.ones_(model.weight)
        average = WeightAverage(model, 0.9)
        average.steps = steps
        torch.nn.init.zeros_(model.weight)
        average.update()
        assert average.values["weight"].item() == pytest.approx(kept)
        with average.swapped():
            assert model.weight.item() == pytest.approx(kept)
        assert (model.weight.item(), average.steps) == (0, steps + 1)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*LeafSpec.*")
def test_accumulated_halves_step_as_the_whole_batch_does():
    (whole,) = batches(1, size=8)
    halves = [Batch(whole.images[i : i + 4], whole.labels[i : i + 4], []) for i in (0, 4)]
    weights = []
    for parts, accumulate in (([whole], 1), (halves, 2)):
        classifier = _classifier(epochs=1, optim=OptimConfig(name="sgd", lr=0.1))
        _fit(classifier, parts, accumulate_grad_batches=accumulate)
        weights.append(classifier.model.head.weight.detach())
    torch.testing.assert_close(*weights)


def test_every_image_counts_once_in_the_mean_loss():
    (whole,) = batches(1, size=8)
    parts = [Batch(whole.images[cut], whole.labels[cut], []) for cut in (slice(7), slice(7, 8))]
    classifier = _classifier().eval()
    for batch in parts:
        classifier.validation_step(batch, 0)
    loss = torch.nn.functional.cross_entropy(classifier(whole.images), whole.labels)
    torch.testing.assert_close(classifier.kept_scores.loss.compute(), loss)


def test_label_smoothing_and_mixing():
    images, labels, *_ = batches(1)[0]
    classifier = _classifier(augment=AugmentConfig(label_smoothing=0.2))
    expected = -(0.8 * torch.nn.functional.one_hot(labels, 10) + 0.02) * torch.log_softmax(
        classifier(images), -1
    )
    classifier.log = lambda *args, **kwargs: None
    loss = classifier.training_step(Batch(images, labels, []), 1)
    torch.testing.assert_close(loss, expected.sum(-1).mean())
    mixing = _classifier(augment=AugmentConfig(mixup=0.8, cutmix=1.0, label_smoothing=0.1))
    mixing.log = lambda *args, **kwargs: None
    seven = Batch(images[:7], labels[:7], [])
    assert mixing.training_step(seven, 1).isfinite()


def test_unreadable_images_are_named_once_or_fatal(capsys):
    classifier = _classifier()
    classifier._report([("a.jpg", "torn"), ("b.jpg", "empty"), ("a.jpg", "torn")])
    classifier._report([("a.jpg", "torn")])
    assert capsys.readouterr().out.count("a.jpg") == 1
    assert set(classifier.skipped) == {"a.jpg", "b.jpg"}
    strict = _classifier(data=DataConfig(bad_images="fail"))
    with pytest.raises(InputError, match=r"a\.jpg cannot be read as an image: torn"):
        strict._report([("a.jpg", "torn")])


def test_defaults_are_valid():
    from kat.training.config import check

    check(TrainConfig())
    assert TrainConfig().model == ModelConfig(name="kat_micro")
