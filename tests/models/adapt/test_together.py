"""Adapters with what people train by: several processes, Trainer, PEFT, quantized weights."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing import start_processes
from torch.nn.parallel import DistributedDataParallel

import kat
from kat.errors import InputError
from kat.models.adapt import load_adapters
from tests.models.adapt.models import KINDS, each_kind, model_for, trained

CONFIG = {
    "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "vocab_size": 100, "max_position_embeddings": 16, "num_labels": 3, "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}  # fmt: skip
TOKENS = torch.randint(3, 100, (4, 16), generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0])
WRAPPERS = {"ddp": DistributedDataParallel, "fsdp": fully_shard}
CASES = list(itertools.product(KINDS, WRAPPERS))
X = torch.randn(8, 16, generator=torch.Generator().manual_seed(1))


def train(model: nn.Module, x: Tensor) -> None:
    optimizer = torch.optim.SGD(kat.param_groups(model, 1e-2, coefficient_lr=1e-3))
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


def save_all(rank: int, out: Path) -> None:
    """Save the adapters of each kind and wrapper, in one of the two processes."""
    store = dist.FileStore(str(out / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    for kind, wrap in CASES:
        model = model_for(kind)
        adapters = kat.adapt(model, kind, modules_to_save="0")
        train(WRAPPERS[wrap](model), X.chunk(2)[rank])
        adapters.save(out / f"{kind}-{wrap}")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory):
    """The folder in which two processes have saved adapters."""
    out = tmp_path_factory.mktemp("two")
    start_processes(save_all, (out,), 2, start_method="forkserver")
    return out


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "wrap"), CASES)
def test_two_processes_train_as_one(kind, wrap, trained_by_two):
    """The mean of the gradients of two halves is that of the whole."""
    alone = model_for(kind)
    expected = kat.adapt(alone, kind, modules_to_save="0")
    start = {name: tensor.clone() for name, tensor in expected.state_dict().items()}
    train(alone, X)
    loaded = load_adapters(model_for(kind), trained_by_two / f"{kind}-{wrap}").state_dict()
    torch.testing.assert_close(loaded, expected.state_dict())
    moved = {
        name.rpartition(".")[2] for name in start if not torch.equal(loaded[name], start[name])
    }
    assert len(moved) > 2


def test_a_sharded_model_is_not_merged(process_group):
    adapted = model_for("low_rank")
    adapters = kat.adapt(adapted, "low_rank")
    fully_shard(adapted)
    with pytest.raises(InputError, match="sharded"):
        adapters.merge()


def bert(kind):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch.manual_seed(0)
    model = transformers.BertForSequenceClassification(transformers.BertConfig(**CONFIG))
    if kind != "parallel":
        kat.kanify(model, "layer.*", config=kat.KanifyConfig(share="none"))
    return model.eval()


@torch.no_grad()
def logits(model):
    return model.eval()(TOKENS).logits


@pytest.mark.slow
@each_kind
def test_trainer_trains_the_adapters_alone(kind, tmp_path):
    pytest.importorskip("accelerate", reason="accelerate, which Trainer needs, is not installed")
    from transformers import Trainer, TrainingArguments

    model = bert(kind)
    adapters = kat.adapt(model, kind, modules_to_save="classifier")
    frozen = {n: p.clone() for n, p in model.named_parameters() if not p.requires_grad}
    start = logits(model)
    data = [{"input_ids": t, "labels": y} for t, y in zip(TOKENS, LABELS, strict=True)]
    arguments = TrainingArguments(
        tmp_path, max_steps=3, use_cpu=True, disable_tqdm=True, report_to=[],
        gradient_checkpointing=True,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(kat.param_groups(model, 1e-2))
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
    trainer.train()
    assert all(torch.equal(model.get_parameter(name), p) for name, p in frozen.items())
    assert not torch.allclose(logits(model), start, atol=1e-4)
    adapters.save(tmp_path / "adapter")
    fresh = bert(kind)
    load_adapters(fresh, tmp_path / "adapter")
    assert torch.equal(logits(fresh), logits(model))


@each_kind
def test_adapters_beside_lora_of_peft(kind, tmp_path):
    """LoRA first; then both are trained, saved in folders of their own, and loaded again."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(target_modules=["query", "value"])
    model = peft.get_peft_model(bert(kind), config)
    lora = {name for name, p in model.named_parameters() if p.requires_grad}
    adapters = kat.adapt(model.get_base_model(), kind, freeze=False)
    trained(model)
    assert lora < {name for name, p in model.named_parameters() if p.requires_grad}
    assert all("lora" in name for name in lora)
    model.save_pretrained(tmp_path / "lora")
    adapters.save(tmp_path / "ours")
    fresh = peft.PeftModel.from_pretrained(bert(kind), tmp_path / "lora")
    load_adapters(fresh.get_base_model(), tmp_path / "ours", freeze=False)
    assert torch.equal(logits(fresh), logits(model))
    torch.testing.assert_close(logits(fresh.merge_and_unload()), logits(model))


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_peft_carries_coefficients_by_itself(tmp_path):
    """The example of docs/fine-tuning.md: PEFT's files, switching and merging."""
    peft = pytest.importorskip("peft", reason="peft is not installed")
    model = bert("low_rank")
    parameters = sorted(kat.models.rational_parameter_names(model))
    config = peft.LoraConfig(r=2, target_modules=[], target_parameters=parameters)
    before = logits(model)
    model = peft.get_peft_model(model, config)
    torch.testing.assert_close(logits(model), before)
    trained(model)
    after = logits(model)
    assert (after - before).abs().max() > 1e-5
    with model.disable_adapter():
        torch.testing.assert_close(logits(model), before)
    model.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(bert("low_rank"), tmp_path)
    torch.testing.assert_close(logits(loaded), after, atol=1e-6, rtol=0)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), after, atol=1e-6, rtol=0)
    assert all(type(act) is kat.GroupRational for act in kat.nn.rationals(merged).values())


@each_kind
def test_weights_in_8_bits_stay_frozen_under_adapters(kind, tmp_path):
    quantization = pytest.importorskip("torchao.quantization", reason="torchao is not installed")

    def quantized():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
        if kind != "parallel":
            kat.kanify(model)
        return model

    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(1))
    model = quantized()
    before = model(x)
    adapters = kat.adapt(model, kind)
    torch.testing.assert_close(model(x), before)
    trained(model)(x).square().mean().backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in grads)
    assert model[0].weight.grad is None
    adapters.save(tmp_path)
    fresh = quantized()
    load_adapters(fresh, tmp_path)
    assert torch.equal(fresh(x), model(x))
