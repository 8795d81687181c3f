"""Adapters: the function at the start, what is trained, files, merging, removing, errors."""

from __future__ import annotations

import copy
import json

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrize

import kat
from kat.errors import InputError
from kat.models.adapt import load_adapters
from kat.models.kanify import kanify_like
from tests.models.kanify.models import TwoModules, encoder

KINDS = ("rational", "low_rank", "parallel")
X = torch.randn(6, 16, generator=torch.Generator().manual_seed(1))


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))


def model_for(kind, make=plain):
    """The same model each time, with rationals unless the adapters are beside the MLPs."""
    model = make()
    if kind != "parallel":
        kat.kanify(model)
    return model


def trained(model):
    """Changes all that is trainable, by a step large enough to be seen."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return model


@torch.no_grad()
def output(model, x=X):
    return model.eval()(x)


@pytest.mark.parametrize("kind", KINDS)
def test_the_function_is_unchanged_and_only_adapters_get_gradients(kind):
    model = model_for(kind)
    before, names = output(model), {name for name, _ in model.named_parameters()}
    adapters = kat.adapt(model, kind)
    assert torch.equal(output(model), before)
    trained(model).train()(X).square().sum().backward()
    assert not torch.allclose(output(model), before, atol=1e-3)
    found = {name for name, p in model.named_parameters() if p.grad is not None}
    assert found == {name for name, p in model.named_parameters() if p.requires_grad}
    assert all(p.grad.any() for p in model.parameters() if p.requires_grad)
    assert not found & names
    numbers = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert f"trainable: {numbers} of" in str(adapters)


@pytest.mark.parametrize("kind", KINDS)
def test_saved_adapters_give_a_fresh_model_the_same_outputs(kind, tmp_path):
    model = model_for(kind)
    adapters = kat.adapt(model, kind, modules_to_save="0")
    trained(model)
    adapters.save(tmp_path / "new" / "folder")
    files = {path.name: path.stat().st_size for path in (tmp_path / "new" / "folder").iterdir()}
    assert files.keys() == {"adapter_config.json", "adapter_model.safetensors"}
    fresh = model_for(kind)
    load_adapters(fresh, tmp_path / "new" / "folder")
    assert torch.equal(output(fresh), output(model))
    assert [p.requires_grad for p in fresh.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]


def test_tied_weights_are_saved(tmp_path):
    def tied():
        model = kat.GRKANMlp(16, 16)
        model.fc2.weight = model.fc1.weight
        return model

    model = tied()
    adapters = kat.adapt(model, "rational", modules_to_save=["fc1", "fc2"])
    nn.init.normal_(model.fc1.weight)
    adapters.save(tmp_path)
    fresh = tied()
    load_adapters(fresh, tmp_path)
    assert fresh.fc2.weight is fresh.fc1.weight
    assert torch.equal(fresh.fc2.weight, model.fc2.weight)


@pytest.mark.parametrize("share", ["numerator", "denominator", "none"])
@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_merged_coefficients_are_plain(kind, share):
    """Loaded by their names into a rational of that size, they are the function."""
    model = plain()
    kat.kanify(model, config=kat.KanifyConfig(share=share))
    adapters = kat.adapt(model, kind, "1", rank=3 if kind == "low_rank" else None)
    expected = output(trained(model))
    adapters.merge()
    act = model[1]
    assert torch.equal(output(model), expected)
    assert type(act) is kat.GroupRational
    assert act.share == ("none" if kind == "low_rank" else share)
    again = kat.GroupRational(8, share=act.share)
    again.load_state_dict(act.state_dict())
    hidden = torch.randn(4, 32)
    assert torch.equal(again(hidden), act(hidden))
    with pytest.raises(InputError, match="were merged or removed"):
        adapters.save("folder")


@pytest.mark.parametrize("kind", ["rational", "low_rank"])
def test_a_merged_model_is_a_kanified_one(kind):
    model = plain()
    plan = kat.kanify(model)
    adapters = kat.adapt(model, kind)
    trained(model)
    adapters.merge()
    again = plain()
    kanify_like(again, plan.record())
    again.load_state_dict(model.state_dict())
    assert torch.equal(output(again), output(model))


def test_a_low_rank_change_is_u_v_in_the_scales_of_the_powers():
    act = kat.GroupRational(8, init="gelu")
    model = nn.Sequential(nn.Linear(16, 32), act)
    start = act.weight_numerator.detach().clone()
    kat.adapt(model, "low_rank", rank=2)
    trained(model)
    change = act.parametrizations.weight_numerator[0]
    assert not act.parametrizations.weight_numerator.original.requires_grad
    delta = (act.weight_numerator - start).detach()
    assert delta.shape == (8, 6)
    assert torch.linalg.matrix_rank(delta / change.scale, rtol=1e-3) == 2
    torch.testing.assert_close(delta, change.u.detach() @ change.v.detach() * change.scale)
    # The scale is one over the largest slope on [-6, 6], here by autograd.
    x = torch.linspace(-6, 6, 241, dtype=torch.float64)
    parts = [p.detach().double()[:1] for p in kat.GroupRational(8, init="gelu").parameters()]
    slopes = torch.autograd.functional.jacobian(
        lambda a, b: kat.rational(x[:, None], a, b, impl="reference")[:, 0], tuple(parts)
    )
    for slope, name in zip(slopes, ("weight_numerator", "weight_denominator"), strict=True):
        largest = slope[:, 0].abs().amax(0).float()
        torch.testing.assert_close(1 / act.parametrizations[name][0].scale, largest)


def test_a_change_of_one_is_the_scale_of_the_power():
    """So that each coefficient by itself moves F by at most 1 on [-6, 6], and by 1 somewhere."""
    x = torch.linspace(-6, 6, 241)
    start = kat.GroupRational(8, init="gelu")
    for power in range(6):
        act = copy.deepcopy(start)
        kat.adapt(act, "rational")
        with torch.no_grad():
            act.parametrizations.weight_numerator[0].d[0, power] = 1
        moved = (act.functions(x) - start.functions(x)).abs().max().item()
        assert moved == pytest.approx(1, rel=1e-5)


def test_ranks_are_no_larger_than_the_matrix_and_polynomials_have_no_denominator():
    act = kat.GroupRational(4, (3, 0), init="identity")
    before = output(act)
    kat.adapt(act, "low_rank", rank=99)
    assert act.parametrizations.weight_numerator[0].u.shape == (4, 4)
    assert not parametrize.is_parametrized(act, "weight_denominator")
    assert torch.equal(output(act), before)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: kat.GRKANMlp(16, 32), X),
        (TwoModules, X),
        (lambda: encoder(activation="gelu", dropout=0.0), X[None]),
        (lambda: timm.create_model("vit_micro_patch2_8", in_chans=1), torch.randn(2, 1, 8, 8)),
        (lambda: timm.create_model("kat_micro_patch2_8", in_chans=1), torch.randn(2, 1, 8, 8)),
    ],
    ids=["GRKANMlp", "two modules", "TransformerEncoder", "ViT", "KAT"],
)
def test_a_parallel_adapter_is_beside_every_mlp(make, x):
    model = make()
    before = output(model, x)
    adapters = kat.adapt(model, "parallel", width=6)
    torch.testing.assert_close(output(model, x), before)
    trained(model)
    assert not torch.allclose(output(model, x), before, atol=1e-3)
    assert torch.equal(output(copy.deepcopy(model), x), output(model, x))
    assert len(adapters.modules) == len(getattr(model, "blocks", getattr(model, "layers", [0])))


def test_a_parallel_adapter_adds_a_bottleneck_of_the_input_to_the_output():
    model = plain()
    kat.adapt(model, "parallel", width=12)
    trained(model)
    beside = model[2].parallel
    act = beside.up.act
    hidden = functional.linear(X, beside.down.weight, beside.down.bias)
    value = kat.rational(hidden, act.weight_numerator, act.weight_denominator, impl="reference")
    expected = functional.linear(value, beside.up.fc.weight, beside.up.fc.bias)
    torch.testing.assert_close(model(X), plain()(X) + expected)
    assert act.num_groups == 6


def test_a_parallel_adapter_sees_the_norm_of_its_mlp():
    mlp, norm = kat.GRKANMlp(16, 32), nn.LayerNorm(16)
    kat.adapt(mlp, "parallel")
    trained(mlp)
    expected = mlp(norm(X))
    torch.testing.assert_close(mlp(X, norm=norm), expected)
    torch.testing.assert_close(mlp(X, norm), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_removed_adapters_leave_the_model_before(kind):
    model = model_for(kind)
    model[0].bias.requires_grad_(False)
    before = [(name, p.requires_grad) for name, p in model.named_parameters()], output(model)
    adapters = kat.adapt(model, kind, modules_to_save="2")
    trained(model)
    adapters.remove()
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before[0]
    assert torch.equal(output(model), before[1])
    assert not [hook for m in model for hook in (*m._forward_hooks, *m._forward_pre_hooks)][1:]


@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_is_trained_in_float32(kind, tmp_path):
    model = model_for(kind).to(torch.bfloat16)
    before = output(model, X.bfloat16())
    adapters = kat.adapt(model, kind)
    y = output(model, X.bfloat16())
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, before)
    assert {p.dtype for p in model.parameters() if p.requires_grad} == {torch.float32}
    adapters.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("kind", KINDS)
def test_coefficients_have_a_rate_of_their_own(kind):
    model = model_for(kind)
    kat.adapt(model, kind, modules_to_save="0")
    groups = kat.param_groups(model, 0.1, coefficient_lr=0.01, weight_decay=0.2)
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert rates.keys() == {id(p) for p in model.parameters() if p.requires_grad}
    coefficients = {id(p) for act in kat.nn.rationals(model).values() for p in act.parameters()}
    for key, rate in rates.items():
        assert (rate == (0.01, 0)) == (key in coefficients)
    assert rates[id(model[0].weight)] == (0.1, 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_compiled_and_checkpointed_models_have_the_same_gradients(kind):
    model = model_for(kind)
    kat.adapt(model, kind)
    trained(model)

    def gradients(call):
        model.zero_grad()
        call(X).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.requires_grad]

    def checkpointed(x):
        return torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)

    compiled = torch.compile(model, backend="eager", fullgraph=True)
    expected = gradients(model)
    for call in (checkpointed, compiled):
        torch.testing.assert_close(gradients(call), expected)


def test_other_trainable_parameters_stay_where_nothing_is_frozen():
    model = model_for("rational").requires_grad_(False)
    model[2].bias.requires_grad_(True)
    kat.adapt(model, "rational", "1", freeze=False)
    found = {name for name, p in model.named_parameters() if p.requires_grad}
    changes = {f"1.parametrizations.weight_{part}.0.d" for part in ("numerator", "denominator")}
    assert found == {*changes, "2.bias"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kat.adapt(plain(), "rational"), "Sequential has no rational; kat.kanify"),
        (lambda: kat.adapt(nn.Linear(2, 2), "parallel"), "Linear has no MLP"),
        (lambda: kat.adapt(model_for("rational"), "parallel"), "adapt first"),
        (lambda: kat.adapt(plain(), "lora"), "unknown kind of adapter 'lora'"),
        (lambda: kat.adapt(plain(), "parallel", "5"), "unknown MLP '5'.*there are: 2"),
        (lambda: kat.adapt(plain(), "parallel", modules_to_save="head"), "unknown module 'head'"),
        (lambda: kat.adapt(plain(), "parallel", width=0), "width must be .* at least 1, got 0"),
        (lambda: kat.adapt(plain(), "parallel", rank=2), "rank=2 has no meaning"),
        (lambda: kat.adapt(model_for("low_rank"), "low_rank", rank=1.5), "rank must be .* got 1.5"),
        (lambda: kat.adapt(3, "parallel"), "must be a torch.nn.Module, got int"),
        (lambda: kat.adapt(plain(), "parallel").merge(), "parallel adapters cannot be merged"),
        (lambda: copy.copy(kat.adapt(plain(), "parallel")), "belong to their model"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_adapter_in_one_place_is_refused(kind):
    model = model_for(kind, lambda: nn.Sequential(plain(), plain()))
    kat.adapt(model, kind, "0")
    with pytest.raises(InputError, match=r"^0\.\S+ has .* already; .*remove\(\) it first"):
        kat.adapt(model, kind)
    kat.adapt(model, kind, exclude="0")


SHAPE = {"num_groups": 8, "degree": [5, 4], "form": "A", "share": "numerator"}


def _saved(folder, kind="low_rank"):
    kat.adapt(model_for(kind), kind).save(folder)
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "LORA", "kat_adapter": None}, "PEFT's: peft.PeftModel.from_pretrained"),
        ({"kat_adapter": None}, "is not of kat.adapt"),
        ({"kat_adapter": 9}, "version 9; only 1"),
        ({"kind": "lora"}, "unknown kind of adapter 'lora'"),
        ({"places": 3}, "no valid entry"),
        ({"places": {"1": {}}}, "no valid entry 'num_groups'"),
        ({"places": {"9": {}}}, "'9' is no rational here"),
        ({"places": {"1": {**SHAPE, "rank": "2"}}}, "rank must be .* got '2'"),
        ({"modules_to_save": ["head"]}, "no module 'head'"),
        ({"modules_to_save": ["0"]}, "lacks 0.bias, 0.weight"),
    ],
)
def test_a_folder_that_does_not_fit_is_refused_and_the_model_unchanged(change, message, tmp_path):
    config = {**_saved(tmp_path), **change}
    config = {name: value for name, value in config.items() if value is not None}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    _refused(model_for("low_rank"), tmp_path, message)


def _refused(model, folder, message):
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    with pytest.raises(InputError, match=message):
        load_adapters(model, folder)
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before


def test_a_model_of_another_shape_is_refused(tmp_path):
    for kind in ("low_rank", "parallel"):
        _saved(tmp_path / kind, kind)
    other = plain()
    kat.kanify(other, config=kat.KanifyConfig(groups=4))
    _refused(other, tmp_path / "low_rank", "num_groups 4 here, not 8")
    _refused(plain(), tmp_path / "low_rank", "is no rational here; .*kanify_like")
    wider = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 16))
    _refused(wider, tmp_path / "parallel", "no MLP from '0' to '2' here, with the widths 16 and 16")


def test_missing_and_damaged_files_are_named(tmp_path):
    _refused(plain(), tmp_path / "none", "adapter_config.json does not exist")
    _saved(tmp_path)
    weights = tmp_path / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    _refused(model_for("low_rank"), tmp_path, "adapter_model.safetensors cannot be read")
    weights.unlink()
    _refused(model_for("low_rank"), tmp_path, "adapter_model.safetensors does not exist")


def test_after_merging_the_same_is_trainable_as_before():
    model = kat.GRKANMlp(16, 64)
    model.fc1.requires_grad_(False)
    before = {name: p.requires_grad for name, p in model.named_parameters()}
    adapters = kat.adapt(model, "low_rank", modules_to_save="fc2")
    assert repr(adapters) == "<2 adapters of the kind 'low_rank'>"
    adapters.merge()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == before


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("compiled", [torch.compile, lambda model: torch.jit.trace(model, X)])
@pytest.mark.parametrize("change", [kat.kanify, lambda model: kat.adapt(model, "parallel")])
def test_a_compiled_model_is_refused(change, compiled):
    model = compiled(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)))
    with pytest.raises(InputError, match="compiled already; change the model first"):
        change(model)


def test_removed_adapters_restore_buffers_and_follow_the_dtype_of_the_model():
    model = nn.Sequential(kat.GRKANMlp(16, 32), nn.BatchNorm1d(16)).train()
    adapters = kat.adapt(model, "rational", modules_to_save="1")
    model(X)
    adapters.remove()
    assert model[1].running_mean.eq(0).all()
    assert model[1].num_batches_tracked == 0
    adapters = kat.adapt(model, "rational", modules_to_save="1")
    model.to(torch.bfloat16)
    adapters.remove()
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(X.bfloat16()).dtype == torch.bfloat16


def test_a_parallel_adapter_beside_an_mlp_that_drops_tokens_is_an_error():
    class First(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.act, self.two = nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)

        def forward(self, x):
            return self.two(self.act(self.one(x)[:, 0]))

    model = First()
    kat.adapt(model, "parallel")
    with pytest.raises(InputError, match="maps each token by itself"):
        model(torch.randn(5, 5, 16))


def test_a_parallel_adapter_in_an_encoder_of_torch_takes_masks():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2).eval()
    x, mask = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        expected = encoder(x, src_key_padding_mask=mask)
        adapters = kat.adapt(encoder, "parallel")
        y = encoder(x, src_key_padding_mask=mask)
        torch.testing.assert_close(y[~mask], expected[~mask])
        adapters.remove()
        assert torch.equal(encoder(x, src_key_padding_mask=mask), expected)


def test_adapters_after_others_leave_them_trainable_and_go_first():
    model = nn.Sequential(kat.GRKANMlp(16, 32), kat.GRKANMlp(16, 32))
    before = [(name, p.requires_grad) for name, p in model.named_parameters()]
    first = kat.adapt(model, "rational", "0.act1")
    second = kat.adapt(model, "low_rank", "1.act2")
    third = kat.adapt(model, "parallel", "1")
    owners = {name.split(".parametrizations")[0].split(".parallel")[0]
              for name, p in model.named_parameters() if p.requires_grad}  # fmt: skip
    assert owners == {"0.act1", "1.act2", "1"}
    for adapters in (first, second):
        with pytest.raises(InputError, match="other adapters were made after these, at "):
            adapters.merge()
    third.remove()
    second.merge()
    first.remove()
    assert [(name, p.requires_grad) for name, p in model.named_parameters()] == before
