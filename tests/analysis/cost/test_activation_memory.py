"""Bytes kept for the backward pass, against a walk over autograd's graph and arithmetic by hand."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

import kat
from kat.analysis import activation_memory
from tests.equality import assert_equal


def _of_node(node: object) -> list[torch.Tensor]:
    """The tensors that a node of the graph keeps, without the factors that are single numbers.

    Of nodes from Python they are saved_tensors.
    """
    kept = [getattr(node, name) for name in dir(node) if name.startswith("_saved_")]
    kept += getattr(node, "saved_tensors", ())
    return [tensor for tensor in kept if isinstance(tensor, torch.Tensor) and tensor.dim()]


def _bytes_of_graph(model: nn.Module, x: torch.Tensor) -> int:
    """Bytes of all storages that the graph of model(x) keeps, without parameters and buffers."""
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    nodes, seen, kept = [model(x).grad_fn], set(), {}
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        nodes += [following for following, _ in node.next_functions]
        kept |= {t.untyped_storage().data_ptr(): t.untyped_storage() for t in _of_node(node)}
    return sum(storage.nbytes() for address, storage in kept.items() if address not in own)


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("kat_micro", {"keep": "hidden"}),
        ("kat_micro", {"keep": "all"}),
        ("vit_micro", {"init_values": 0.1, "qk_norm": True}),
        ("vit_swiglu_micro", {}),
        ("kat_glu_micro", {"keep": "hidden"}),
        ("vit_kan_micro", {}),
        ("resnet18", {}),
    ],
)
def test_it_is_what_the_graph_keeps(name, args):
    model = timm.create_model(name, **args).train()
    size = model.default_cfg["input_size"]
    memory = activation_memory(model, size)
    for batch in (2, 5):
        kept = _bytes_of_graph(model, torch.zeros(batch, *size))
        assert kept == batch * memory.per_image + memory.fixed


def test_a_grkan_mlp_keeps_its_inputs_alone_or_all():
    inputs = 4 * 50 * (64 + 256)
    hidden = activation_memory(kat.GRKANMlp(64, 256), (50, 64))
    plain = activation_memory(kat.GRKANMlp(64, 256, keep="all"), (50, 64))
    assert (hidden.per_image, plain.per_image) == (inputs, 2 * inputs)
    assert hidden.layers == {"": inputs}
    widths = {"act1": 64, "fc1": 64, "act2": 256, "fc2": 256}
    assert plain.layers == {name: 4 * 50 * width for name, width in widths.items()}


def test_dropout_keeps_what_training_keeps():
    """It prevents blocks of rows, so the outputs of rationals and dropouts are kept."""
    size = 4 * 50 * (64 + 256)
    found = activation_memory(kat.GRKANMlp(64, 256, drop=0.1), (50, 64)).per_image
    assert found > 2 * size


def test_what_does_not_grow_with_the_batch_is_not_an_images():
    """A batch norm keeps the mean and the deviation of each of 6 channels, in float32."""
    memory = activation_memory(nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)), (3, 8, 8))
    assert memory.layers == {"0": 4 * 3 * 64, "1": 4 * 6 * 64}
    assert memory.fixed == 4 * 2 * 6


def test_measuring_leaves_the_model_as_it_is():
    model = nn.Sequential(nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6)).eval().double()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():  # does not hide what is kept
        assert activation_memory(model, (3, 8, 8)).per_image > 0
    assert not model.training
    assert_equal(before, model.state_dict())
    assert model[0].weight.dtype == torch.float64
