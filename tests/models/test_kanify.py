"""kanify: which MLPs it finds, that their function is kept, and that undo gives the model back."""

from __future__ import annotations

import copy
import json
import pickle
import re

import numpy as np
import pytest
import timm
import torch
from timm.layers import ConvMlp, GlobalResponseNormMlp, GluMlp, Mlp, SwiGLU
from torch import Tensor, nn
from torch.nn import functional

import kat
from kat.errors import InputError
from kat.models.kanify import kanify_like
from kat.models.kanify.activation import SUPPORTED, known_function
from tests.models.kanify_models import (
    ByKeyword,
    TwoModules,
    encoder,
    images,
    output,
    sequential,
    state,
    vit,
)
from tests.oracle import rational_numpy

MODELS = {
    "timm": (vit, ["blocks.0.mlp.act", "blocks.1.mlp.act", "blocks.2.mlp.act", "blocks.3.mlp.act"]),
    "norm": (lambda: Mlp(16, 32, norm_layer=nn.LayerNorm), ["act"]),
    "encoder": (encoder, ["layers.0.activation", "layers.1.activation"]),
    "decoder": (lambda: nn.TransformerDecoderLayer(16, 2, 32), ["activation"]),
    "lambda": (
        lambda: encoder(activation=lambda x: functional.gelu(x, approximate="tanh")),
        ["layers.0.activation", "layers.1.activation"],
    ),
    "sequential": (lambda: sequential(nn.ReLU(inplace=True)), ["1"]),
    "nested": (
        lambda: nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.SiLU()), nn.Linear(16, 8)),
        ["0.1"],
    ),
    "by keyword": (ByKeyword, ["act"]),
    "two modules": (TwoModules, ["inner.function"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_mlps_are_found_by_what_the_code_does(name):
    build, activations = MODELS[name]
    plan = kat.kanify(build(), dry_run=True)
    assert [r.mlp.activation for r in plan.replacements] == activations


@pytest.mark.parametrize(
    ("activation", "name"),
    [
        (nn.GELU(), "gelu"),
        (nn.GELU("tanh"), "gelu_tanh"),
        (functional.gelu, "gelu"),
        (timm.layers.QuickGELU(), "quick_gelu"),
        (timm.layers.activations.Swish(inplace=True), "silu"),
        (nn.Mish(), "mish"),
        (torch.relu, "relu"),
        (nn.LeakyReLU(), "leaky_relu"),
        (nn.Tanh(), "tanh"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Softplus(), "softplus"),
        (nn.Flatten(), "identity"),
        (nn.LeakyReLU(0.02), None),
        (nn.ReLU6(), None),
        (nn.Hardtanh(), None),
        (nn.Softmax(-1), None),
        (nn.GLU(), None),
        (nn.RReLU(), None),
    ],
)
def test_a_function_is_known_by_its_values(activation, name):
    before = torch.get_rng_state()
    assert known_function(activation) == name
    assert name in (None, "identity", *SUPPORTED)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("activation", [nn.GELU, nn.SiLU, nn.ReLU, nn.Tanh, nn.Mish])
def test_the_output_moves_by_no_more_than_the_error_of_the_fit(activation):
    torch.manual_seed(0)
    model, x = Mlp(16, 32, act_layer=activation).double(), torch.randn(64, 16).double()
    before = output(model, x)
    plan = kat.kanify(model)
    # |y' - y| <= max |F_2 - f| sum_c |W_2c|, as long as the inputs of f are within the interval.
    assert output(model.fc1, x).abs().max() < 6
    bound = plan.replacements[0].fitted.max_error * model.fc2.weight.abs().sum(1)
    moved = (output(model, x) - before).abs()
    assert (moved <= bound + 1e-12).all()
    assert moved.max() > 0.01 * bound.max()


def test_a_kanified_mlp_is_the_gr_kan_formula():
    torch.manual_seed(0)
    model, x = sequential(nn.GELU()).double(), torch.randn(64, 16).double()
    kat.kanify(model, num_groups=4)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))

    def rational(y, act):
        numerator, denominator = (
            w.detach().numpy() for w in (act.weight_numerator, act.weight_denominator)
        )
        return rational_numpy(y, numerator, denominator, "A")

    w1, b1, w2, b2 = (p.detach().numpy() for m in (model[0], model[3]) for p in (m.weight, m.bias))
    hidden = rational(x.numpy(), model[0].act1) @ w1.T + b1
    expected = rational(hidden, model[1]) @ w2.T + b2
    np.testing.assert_allclose(output(model, x).numpy(), expected, rtol=1e-11, atol=1e-11)


def test_names_of_the_weights_stay_and_those_of_the_rationals_are_added():
    model = vit()
    before = set(model.state_dict())
    plan = kat.kanify(model, only="blocks.1")
    added = {
        f"blocks.1.mlp.{place}.weight_{part}"
        for place in ("fc1.act1", "act")
        for part in ("numerator", "denominator")
    }
    assert set(model.state_dict()) == before | added
    assert plan.parameters == 2 * (6 + 8 * 4)


@pytest.mark.parametrize(
    ("only", "blocks"),
    [
        (0, [0]),
        (-1, [3]),
        ("blocks.2", [2]),
        ("blocks.[13].*", [1, 3]),
        ("*.mlp", [0, 1, 2, 3]),
        (["blocks.2.mlp.act", 0], [0, 2]),
    ],
)
def test_blocks_are_selected_by_index_and_by_pattern(only, blocks):
    model = vit()
    kat.kanify(model, only)
    kanified = [isinstance(block.mlp.act, kat.GroupRational) for block in model.blocks]
    assert [index for index, is_rational in enumerate(kanified) if is_rational] == blocks


def test_groups_are_the_largest_divisor_up_to_8_of_each_width():
    model = nn.Sequential(nn.Linear(15, 28), nn.GELU(), nn.Linear(28, 3))
    kat.kanify(model)
    assert (model[0].act1.num_groups, model[1].num_groups) == (5, 7)


def test_an_mlp_of_three_linear_maps_has_one_rational_before_each():
    model = nn.Sequential(
        nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)
    )
    plan = kat.kanify(model)
    rationals = [n for n, m in model.named_modules() if isinstance(m, kat.GroupRational)]
    assert rationals == ["0.act1", "1", "3"]
    assert plan.replacements[1].act1 is None


def test_linear_maps_called_by_keyword_have_their_rational():
    torch.manual_seed(0)
    model, x = ByKeyword().double(), torch.randn(5, 8).double()
    before = output(model, x)
    kat.kanify(model, calibration=[x])
    assert 0 < (output(model, x) - before).abs().max() < 1e-3
    with torch.no_grad():
        model.fc1.act1.weight_numerator.mul_(2)  # F_1(x) = 2 x
        doubled = model.fc2(model.act(functional.linear(2 * x, model.fc1.weight, model.fc1.bias)))
    torch.testing.assert_close(output(model, x), doubled)


def test_mlps_that_share_their_first_linear_map_have_one_rational_before_it():
    torch.manual_seed(0)
    model, x = nn.Sequential(Mlp(8, 16), Mlp(8, 16)), torch.randn(4, 8)
    model[1].fc1 = model[0].fc1
    model.eval()
    before, expected = state(model), output(model, x)
    plan = kat.kanify(model)
    assert [r.act1 is None for r in plan.replacements] == [False, True]
    assert (output(model, x) - expected).abs().max() < 0.02
    again = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    again[1].fc1 = again[0].fc1
    kanify_like(again, plan.record())
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, x), output(model, x))
    plan.undo()
    assert state(model) == before


def test_mlps_that_share_an_activation_get_rationals_of_their_own():
    shared = nn.GELU()
    model = nn.Sequential(*(Mlp(8, 16, act_layer=lambda: shared) for _ in range(2)))
    plan = kat.kanify(model)
    assert model[0].act is not model[1].act
    plan.undo()
    assert model[0].act is model[1].act is shared


@pytest.mark.parametrize("name", MODELS)
def test_undo_gives_back_the_same_objects_with_the_weights_trained_since(name):
    model = MODELS[name][0]()
    before = state(model)
    plan = kat.kanify(model)
    assert state(model) != before
    with torch.no_grad():
        next(model.parameters()).fill_(0.5)
    plan.undo()
    assert state(model) == before
    assert (next(model.parameters()) == 0.5).all()
    plan.apply()
    with pytest.raises(InputError, match="in place already"):
        plan.apply()
    plan.undo()
    with pytest.raises(InputError, match="nothing to undo"):
        plan.undo()


def test_undo_refuses_where_something_else_has_taken_the_place():
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    model[1] = nn.ReLU()
    with pytest.raises(InputError, match="1 has been replaced since"):
        plan.undo()
    assert isinstance(model[0].act1, kat.GroupRational)


def test_undo_refuses_where_the_linear_map_is_another_one():
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    model[0] = copy.deepcopy(model[0])
    with pytest.raises(InputError, match=r"0\.act1 has been replaced since"):
        plan.undo()
    assert plan.applied
    del model[3], model[0]
    with pytest.raises(InputError, match=r"0\.act1 has been replaced since"):
        plan.undo()


def replace_activation(model: nn.Sequential) -> None:
    model[1] = nn.GELU()


def replace_first(model: nn.Sequential) -> None:
    model[0] = nn.Linear(16, 32)


def replace_second(model: nn.Sequential) -> None:
    model[3] = nn.Linear(32, 8)


def remove(model: nn.Sequential) -> None:
    del model[3]


@pytest.mark.parametrize(
    "change", [kat.kanify, replace_activation, replace_first, replace_second, remove]
)
def test_a_plan_for_what_the_model_was_is_refused(change):
    model = nn.Sequential(Mlp(8, 16), sequential(nn.GELU()))
    plan = kat.kanify(model, dry_run=True)
    change(model[1])
    before = state(model)
    with pytest.raises(InputError, match=r"1\.1 has been changed since it was planned"):
        plan.apply()
    assert state(model) == before
    assert not plan.applied


def test_a_plan_is_applied_in_the_dtype_that_the_weights_have_then():
    torch.manual_seed(0)
    model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.double()
    plan.apply()
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    plan.undo()
    model.bfloat16()
    plan.apply()
    assert output(model, torch.randn(2, 16).bfloat16()).dtype == torch.bfloat16


def test_a_plan_made_on_the_meta_device_is_applied_with_its_coefficients():
    model = sequential(nn.GELU())
    expected = kat.kanify(copy.deepcopy(model), dry_run=True).replacements[0]
    with torch.device("meta"):
        model = sequential(nn.GELU())
    plan = kat.kanify(model, dry_run=True)
    model.to_empty(device="cpu")
    plan.apply()
    assert torch.equal(model[1].weight_numerator, expected.act2.weight_numerator)
    assert torch.equal(model[0].act1.weight_denominator, expected.act1.weight_denominator)


def test_plans_are_undone_in_the_reverse_order_only():
    model = encoder()
    before = state(model)
    first, second = kat.kanify(model, 0), kat.kanify(model, 0)
    between = state(model)
    with pytest.raises(InputError, match="a later plan for this model is in place"):
        first.undo()
    assert state(model) == between
    second.undo()
    first.undo()
    assert state(model) == before
    second.apply()  # in the other order than they were made
    first.apply()
    with pytest.raises(InputError, match="a later plan"):
        second.undo()


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_plan_is_neither_copied_nor_pickled(duplicate):
    model = sequential(nn.GELU())
    plan = kat.kanify(model)
    with pytest.raises(InputError, match="cannot be copied or pickled; save"):
        duplicate(plan)
    assert plan.applied
    plan.undo()
    assert isinstance(model[1], nn.GELU)


def test_torchs_fused_inference_does_not_bypass_the_rationals():
    torch.manual_seed(0)
    model, x = encoder(activation="gelu"), torch.randn(2, 5, 16)
    mask = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    model.eval()
    with torch.no_grad():
        before = model(x, src_key_padding_mask=mask)
        plan = kat.kanify(model)
        after = model(x, src_key_padding_mask=mask)
        assert 0 < (after - before)[~mask].abs().max() < 0.05
        model.layers[0].activation.weight_numerator.mul_(2)
        assert (model(x, src_key_padding_mask=mask) - after)[~mask].abs().max() > 0.1
        plan.undo()
        assert torch.equal(model(x, src_key_padding_mask=mask), before)


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        (nn.Linear(8, 8), {}, "Linear has no MLP to replace"),
        (nn.Sequential(nn.Linear(8, 8), nn.Flatten(), nn.Linear(8, 8)), {}, "has no MLP"),
        (GluMlp(8, 16), {}, "a part of a tensor, as in gated MLPs"),
        (SwiGLU(8, 16), {}, "a gate that something is multiplied by"),
        (GlobalResponseNormMlp(8, 16), {}, "goes to GlobalResponseNorm, no linear map"),
        (ConvMlp(8, 16), {}, "comes from Conv2d, no linear map"),
        (Mlp(8, 16, use_conv=True), {}, "comes from Conv2d, no linear map"),
        (kat.GRKANMlp(8, 16), {}, "it has rationals already"),
        (Mlp(8, 16, act_layer=nn.Hardswish), {}, "act: the activation Hardswish is not supported"),
        (Mlp(8, 16, act_layer=nn.PReLU), {}, "PReLU is not supported, only gelu, "),
        (nn.Sequential(Mlp(8, 16)), {"only": "1"}, "unknown MLP '1'"),
        (nn.Sequential(Mlp(8, 16), GluMlp(8, 16)), {"only": "1.*"}, "has no MLP to replace; 1.act"),
        (Mlp(8, 16), {"only": 1}, "only=1: there are 1 MLPs"),
        (Mlp(8, 16), {"only": []}, "selects nothing"),
        (Mlp(8, 16), {"only": 0.5}, "only=0.5 is neither an index nor a glob"),
        (Mlp(8, 16), {"only": False}, "only=False is neither an index nor a glob"),
        (Mlp(8, 16), {"only": [0, None]}, "only=None is neither an index nor a glob"),
        (Mlp(8, 18), {"num_groups": 4}, "num_groups=4 does not divide the width 18 of act"),
        (Mlp(8, 16), {"num_groups": 0}, "num_groups=0 does not divide"),
        (Mlp(8, 16), {"num_groups": "4"}, "num_groups must be an integer, got '4'"),
        (Mlp(8, 16), {"num_groups": True}, "num_groups must be an integer, got True"),
        (Mlp(8, 16), {"degree": (0, 4)}, "degree"),
        (Mlp(8, 16), {"degree": 5}, "degree must be two numbers, got 5"),
        (Mlp(8, 16), {"degree": "54"}, "degree must be two numbers, got '54'"),
        (Mlp(8, 16), {"interval": 6}, "interval must be two numbers, got 6"),
        (
            Mlp(8, 16),
            {"interval": (1, 2, 3), "calibration": [torch.randn(2, 8)]},
            "interval must be two numbers",
        ),
        (Mlp(8, 16), {"form": "C"}, "form must be one of A, B"),
        (Mlp(8, 16), {"share": "all"}, "share must be one of"),
        (Mlp(8, 16), {"interval": (3, -3)}, "interval must be finite and increasing"),
    ],
)  # fmt: skip
def test_bad_input_is_one_error_and_leaves_the_model_untouched(model, settings, message):
    before = state(model)
    with pytest.raises(ValueError, match=re.escape(message)):
        kat.kanify(model, **settings)
    assert state(model) == before


def test_an_activation_that_is_used_twice_is_left_alone():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.act = nn.GELU()
            self.one, self.two, self.three = (nn.Linear(8, 8) for _ in range(3))

        def forward(self, x):
            return self.three(self.act(self.two(self.act(self.one(x)))))

    with pytest.raises(InputError, match="it is called more than once"):
        kat.kanify(Twice())


def test_a_linear_map_whose_output_is_also_used_elsewhere_is_left_alone():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.one, self.two = nn.GELU(), nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x):
            hidden = self.one(x)
            return hidden + self.two(self.act(hidden))

    with pytest.raises(InputError, match="its input, from Linear, is used elsewhere too"):
        kat.kanify(Residual())


def test_the_plan_is_a_table_and_a_dry_run_changes_nothing():
    model = nn.Sequential(Mlp(8, 16), GluMlp(8, 16), Mlp(8, 15, act_layer=nn.SiLU))
    before = state(model)
    lines = str(kat.kanify(model, dry_run=True)).splitlines()
    assert state(model) == before
    assert lines[0].split()[:4] == ["MLP", "widths", "function", "groups"]
    assert lines[1].split()[:6] == ["0.act", "8-16-8", "gelu", "8,", "8", "76"]
    assert lines[2].split()[:6] == ["2.act", "8-15-8", "silu", "8,", "5", "64"]
    assert lines[3] == "MLPs: 2, parameters added: 140, not in place"
    assert lines[4].startswith("left alone: 1.act: its input is a part of a tensor")


def test_code_with_side_effects_leaves_no_trace_in_a_dry_run():
    class Counting(ByKeyword):
        def __init__(self):
            super().__init__()
            self.register_buffer("steps", torch.zeros(()))
            self.inputs, self.outputs = [], {}

        def forward(self, x):
            self.steps += 1
            self.inputs.append(x)
            self.outputs["scale"] = torch.rand([])
            return super().forward(x)

    model = nn.Sequential(Counting())
    random = torch.get_rng_state()
    plan = kat.kanify(model, dry_run=True)
    assert len(plan.replacements) == 1
    assert torch.equal(torch.get_rng_state(), random)
    assert model[0].steps == 0
    assert not model[0].inputs
    assert not model[0].outputs


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dtype_mode_and_frozen_weights_stay(dtype):
    model = vit().to(dtype).eval().requires_grad_(False)
    plan = kat.kanify(model)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert not any(module.training for module in model.modules())
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == kat.models.rational_parameter_names(model)
    assert 3.0e-3 < plan.replacements[0].fitted.max_error < 5e-3
    assert output(model, images().to(dtype)).isfinite().all()


def test_a_model_on_the_meta_device_stays_there():
    with torch.device("meta"):
        model = vit()
    kat.kanify(model)
    assert {p.device.type for p in model.parameters()} == {"meta"}
    model = model.to_empty(device="cpu")
    model.load_state_dict(kanified_state())
    assert output(model, images()).isfinite().all()


def kanified_state() -> dict[str, Tensor]:
    model = vit()
    kat.kanify(model)
    return model.state_dict()


def test_a_kanified_model_is_rebuilt_from_its_record_and_state_dict(tmp_path):
    model = vit()
    plan = kat.kanify(model, ["blocks.1", "blocks.3"], num_groups=4, degree=(3, 2), share="none",
                      calibration=[images()])  # fmt: skip
    plan.save(tmp_path / "kanify.json")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    again = vit()
    rebuilt = kanify_like(again, tmp_path / "kanify.json")
    trained, fitted = (m.blocks[1].mlp.act.weight_numerator for m in (model, again))
    torch.testing.assert_close(trained, 1.1 * fitted)
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again, images()), output(model, images()))
    assert rebuilt.record() == plan.record() == json.loads(json.dumps(plan.record()))
    assert str(rebuilt).splitlines()[:3] == str(plan).splitlines()[:3]


def test_records_that_do_not_fit_are_refused(tmp_path):
    record = kat.kanify(vit(), dry_run=True).record()
    model = encoder()
    before = state(model)
    for bad, message in (
        (record, "the record is of another model: no MLP at blocks.0.mlp.act"),
        ({"mlps": [{}]}, "not a record of kanify"),
        ({"mlps": [{"mlp": {**record["mlps"][0]["mlp"], "widths": [1]}}]}, "not a record"),
        ([], "not a record of kanify"),
        (tmp_path / "none.json", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=re.escape(message)):
            kanify_like(model, bad)
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        kanify_like(model, str(tmp_path / "text.json"))
    wider = copy.deepcopy(record)
    wider["mlps"][0]["mlp"]["widths"] = [1, 2, 3]
    with pytest.raises(InputError, match="have the widths"):
        kanify_like(vit(), wider)
    assert state(model) == before
    kanified = vit()
    kanify_like(kanified, record)
    with pytest.raises(InputError, match="is a rational already"):
        kanify_like(kanified, record)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record.update(kanify=99), "the record has version 99, and only 1"),
        (lambda record: record["mlps"].clear(), "it names no MLP"),
        (lambda record: record["mlps"].append(record["mlps"][0]), "it names an MLP twice"),
        (lambda record: record["mlps"][0].update(groups=[3, 8]), "num_groups=3 does not divide"),
        (lambda record: record["mlps"][0].update(groups=[8, "8"]), "must be an integer, got '8'"),
        (lambda record: record["mlps"][0].update(groups=[8, None]), "not a record of kanify"),
        (lambda record: record["mlps"][0].update(max_error="small"), "not a record of kanify"),
        (
            lambda record: record["mlps"][0]["mlp"].update(activation="0.fc2"),
            "0.fc2 is Linear here, not gelu",
        ),
        (
            lambda record: record["mlps"][0]["mlp"].update(function="silu"),
            "0.act is GELU here, not silu",
        ),
    ],
)
def test_records_of_something_else_are_refused(change, message):
    model = nn.Sequential(Mlp(8, 16), Mlp(8, 16))
    before, record = state(model), kat.kanify(model, dry_run=True).record()
    change(record)
    with pytest.raises(InputError, match=re.escape(message)):
        kanify_like(model, record)
    assert state(model) == before


def test_training_moves_the_rationals_and_lowers_the_loss():
    torch.manual_seed(0)
    model = vit()
    plan = kat.kanify(model)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-2)
    x, target = images(16), torch.arange(16) % 10
    losses = []
    for _ in range(20):
        loss = functional.cross_entropy(model(x), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for replacement in plan.replacements:
        for act in (replacement.act1, replacement.act2):
            assert all(p.grad.abs().sum() > 0 for p in act.parameters())
            start = act.initial_functions(torch.tensor([0.5]))
            assert not torch.allclose(act.functions(torch.tensor([0.5])), start)


@pytest.mark.parametrize("build", [Mlp, ByKeyword])
def test_compiled_copied_and_exported_models_compute_the_same(build):
    torch.manual_seed(0)
    model, x = (Mlp(8, 16) if build is Mlp else ByKeyword()).eval(), torch.randn(5, 8)
    kat.kanify(model)
    with torch.no_grad():
        model.fc1.act1.weight_numerator.mul_(1.5)  # a compiled model without it would differ
    expected = output(model, x)
    assert torch.equal(output(copy.deepcopy(model), x), expected)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), expected)
