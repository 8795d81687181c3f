"""Activations outside of MLPs: after convolutions and norms, in recurrent heads and graphs."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import Tensor, nn

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from tests.marks import most_at_night
from tests.models.kanify.models import output

pytestmark = pytest.mark.filterwarnings("ignore:kanify.*the fit to")  # ReLU's kink


class UNet(nn.Module):
    """Two levels, with a skip."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        norm = nn.GroupNorm(4, width)
        self.down = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), norm, nn.SiLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(width, 16, 3, padding=1), nn.GELU())
        self.up, self.act = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Mish()
        self.out = nn.Conv2d(16, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        return self.out(torch.cat([self.act(self.up(self.middle(skip))), skip], 1))


class Recurrent(nn.Module):
    """An LSTM, and an activation before its head."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(3, 12, batch_first=True, bidirectional=True)
        self.act, self.head = nn.Tanh(), nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        hidden, _ = self.lstm(x.flatten(2).transpose(1, 2))
        return self.head(self.act(hidden[:, -1]))


class Graph(nn.Module):
    """Sums over neighbors, before an activation that the code does not show the channels of."""

    def __init__(self) -> None:
        super().__init__()
        self.lin, self.act = nn.Linear(3, 10), nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        nodes = self.lin(x.flatten(2).transpose(1, 2))
        return self.act(nodes.cumsum(1).reshape(-1, 10))


class Diffusion(nn.Module):
    """As diffusers' ResnetBlock2D: one activation for images and for the embedding of a time."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.act, self.conv = nn.GroupNorm(1, 3), nn.SiLU(), nn.Conv2d(3, 8, 3)
        self.time = nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        time = self.time(self.act(x.flatten(1)[:, :32]))
        return self.conv(self.act(self.norm(x))) + time[:, :, None, None]


MODELS = {
    "ResNet": (lambda: timm.create_model("test_resnet", num_classes=4), 12, True),
    "EfficientNet": (lambda: timm.create_model("test_efficientnet", num_classes=4), 13, True),
    "U-Net": (UNet, 3, True),
    "LSTM": (Recurrent, 1, True),
    "graph": (Graph, 1, False),
    "diffusion": (Diffusion, 1, False),
}


@pytest.mark.parametrize("name", most_at_night(MODELS, ["ResNet", "LSTM", "graph", "diffusion"]))
def test_all_activations_are_replaced_calibrated_saved_and_frozen(name):
    build, count, is_clear = MODELS[name]
    torch.manual_seed(0)
    model = build().train()
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        model(x)  # statistics of norms
    expected = output(model, x)
    if is_clear:
        assert len(kat.kanify(model, what="activations", dry_run=True).replacements) == count
    else:
        with pytest.raises(InputError, match="unclear"):
            kat.kanify(model, what="activations")
    plan = kat.kanify(model, what="activations", calibration=[x])
    assert len(plan.replacements) == len(kat.nn.rationals(model)) == count
    assert not plan.skipped
    moved = (output(model, x) - expected).norm() / expected.norm()
    assert 0 < moved < (0.1 if name == "ResNet" else 0.01)
    again = build().eval()
    kanify_like(again, plan.record())
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, x), output(model, x))
    if name == "U-Net":
        with pytest.raises(InputError, match="no silu"):
            kanify_like(UNet(24), plan.record())
    frozen = kat.deploy.freeze(again)
    torch.testing.assert_close(output(frozen, x), output(model, x), rtol=1e-4, atol=1e-4)
    exported = torch.export.export(again, (x,)).module()
    torch.testing.assert_close(exported(x), output(model, x))
    kat.adapt(again, "low_rank")
    torch.testing.assert_close(output(again, x), output(model, x))


def test_channels_are_in_the_dimension_of_the_layers_around():
    plan = kat.kanify(UNet(), what="activations", config=kat.KanifyConfig(groups=4))
    found = {r.site.activation: (r.act.num_channels, r.act.channel_dim) for r in plan.replacements}
    assert found == {"act": (8, 1), "down.2": (8, 1), "middle.2": (16, 1)}
    plans = [
        kat.kanify(model, what="activations", calibration=[torch.randn(2, 3, 8, 8)])
        for model in (Diffusion(), Graph())
    ]
    shown = [(plan.replacements[0].site.widths, plan.replacements[0].act) for plan in plans]
    assert [(widths, act.channel_dim) for widths, act in shown] == [((3, 32), 1), ((10,), -1)]


def test_an_index_out_of_range_names_the_activations_that_there_are():
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
    with pytest.raises(InputError, match="only=5"):
        kat.kanify(model, [5])
    with pytest.raises(InputError, match="'mlp'"):
        kat.kanify(model, what="mlp")
