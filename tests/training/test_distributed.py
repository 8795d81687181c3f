"""Several processes: equal to one, whole in what they write, and resumed."""

from __future__ import annotations

import copy
import csv
import os
import signal
from functools import cache, partial

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor
from torch.multiprocessing import start_processes
from torch.utils._pytree import tree_leaves

from kat.errors import InputError
from kat.models import create_model
from kat.training.cluster.collectives import share_buffers
from kat.training.cluster.parallel import wrap
from kat.training.cluster.processes import World, connect, find_world, is_first_process, launch
from kat.training.record.run_directory import locked_run
from tests.equality import assert_equal
from tests.images import write_folder
from tests.marks import most_at_night
from tests.processes import children, start, wait_until
from tests.training.killed_runs import train

LAUNCHERS = {
    "none": {},
    "torchrun": {
        "RANK": 5, "LOCAL_RANK": 1, "GROUP_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4,
    },
    "srun": {
        "SLURM_NTASKS": 8, "SLURM_PROCID": 5, "SLURM_LOCALID": 1, "SLURM_NODEID": 1,
        "SLURM_STEP_ID": 0,
    },
    "sbatch of one task": {"SLURM_NTASKS": 1, "SLURM_PROCID": 0, "SLURM_LOCALID": 0},
    "torchrun within srun": {
        "SLURM_NTASKS": 2, "SLURM_PROCID": 1, "SLURM_LOCALID": 0, "SLURM_NODEID": 1,
        "RANK": 6, "LOCAL_RANK": 2, "GROUP_RANK": 1, "WORLD_SIZE": 8, "LOCAL_WORLD_SIZE": 4,
    },
    "a shell of SLURM": {"SLURM_NTASKS": 8, "SLURM_PROCID": 0, "SLURM_JOB_NAME": "bash"},
}  # fmt: skip
"""The environment variables of a process, by launcher."""


@pytest.fixture
def launcher(monkeypatch):
    """Sets the environment of a process to what a launcher puts there, and nothing else of it."""

    def set_to(**environment):
        for name in list(os.environ):
            if name.startswith(("SLURM_", "MASTER_", "TORCHELASTIC_")) or name.endswith("RANK"):
                monkeypatch.delenv(name)
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))

    set_to()
    return set_to


@pytest.mark.parametrize(
    ("name", "devices", "nodes", "world", "first"),
    [
        ("none", 1, 1, World(), True),
        ("none", "auto", 1, World(size=4, local_size=4), True),
        ("none", 2, 1, World(size=2, local_size=2), True),
        ("torchrun", 4, 2, World(5, 1, 8, 4, launched=True), False),
        ("torchrun", "auto", 1, World(5, 1, 8, 4, launched=True), False),
        ("srun", 4, 2, World(5, 1, 8, 4, launched=True), False),
        ("srun", "auto", 2, World(5, 1, 8, 4, launched=True), False),
        ("sbatch of one task", "auto", 1, World(launched=True), True),
        ("torchrun within srun", 4, 2, World(6, 2, 8, 4, launched=True), False),
        ("a shell of SLURM", 2, 1, World(size=2, local_size=2), True),
    ],
)
def test_the_launcher_says_which_process_this_is(launcher, name, devices, nodes, world, first):
    launcher(**LAUNCHERS[name])
    assert find_world(devices, nodes, present=4) == world
    assert is_first_process() == first


@pytest.mark.parametrize("name", ["torchrun", "srun"])
def test_another_number_of_processes_than_the_settings_make_is_refused(launcher, name):
    launcher(**LAUNCHERS[name])
    with pytest.raises(InputError, match="launcher has started 8"):
        find_world(4, 1, present=4)


@pytest.mark.parametrize(("name", "variable"), [("torchrun", "RANK"), ("srun", "SLURM_PROCID")])
def test_a_rank_that_is_no_number_is_named(launcher, name, variable):
    launcher(**LAUNCHERS[name] | {variable: "abc"})
    with pytest.raises(InputError, match=f"{variable}=abc"):
        find_world("auto", 1, present=4)


def test_sbatch_of_several_tasks_without_srun_is_refused(launcher):
    launcher(SLURM_NTASKS=8, SLURM_PROCID=0, SLURM_LOCALID=0, SLURM_NODEID=0, SLURM_NNODES=2)
    with pytest.raises(InputError, match="8 tasks, but"):
        find_world("auto", 2, present=4)


@pytest.fixture
def joined(monkeypatch):
    """Record the arguments of joining the group of processes, which is not joined."""
    calls = []
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda *args, **options: calls.append((*args, *options.values())),
    )
    monkeypatch.setattr(torch.distributed, "barrier", lambda: None)
    return calls


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu7", "gpu7"), ("gpu[01-04,7],login", "gpu01"), ("rack[2-3]n[08-09]", "rack2n08")],
)
def test_slurm_tasks_meet_on_the_first_node(launcher, joined, nodes, first):
    launcher(**LAUNCHERS["srun"], SLURM_JOB_NODELIST=nodes, SLURM_JOB_ID=123456)
    connect(find_world(4, 2, present=4), torch.device("cpu"))
    assert joined == [("gloo", 5, 8)]
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == (first, "18456")


def test_one_process_joins_nothing_and_several_machines_need_a_launcher(launcher, joined):
    connect(find_world(1, 1, present=1), torch.device("cpu"))
    assert not joined
    with pytest.raises(InputError, match="need a launcher"):
        launch(find_world(1, 2, present=1))


SETTINGS = (
    "--config", "digits", "--epochs", "2", "--optim.warmup_epochs", "1", "--no-progress",
    "--accelerator", "cpu", "--model.args", "{depth: 2}", "--model.drop_path", "0",
    "--optim.name", "sgd", "--optim.ema_decay", "0.9", "--augment.random_erasing", "0.5",
    "--limit_train_batches", "5",
)  # fmt: skip
DIVISIONS = {
    "one": ("--data.batch_size", "64"),
    "ddp": ("--data.batch_size", "32", "--devices", "2"),
    "fsdp": ("--data.batch_size", "32", "--devices", "2", "--strategy", "fsdp"),
}


def _start(out, *more):
    return start("train", *SETTINGS, "--out", out, *more)


def _run(out, *more):
    """Runs as torchrun would start it, without the seconds of imports; its code and output."""
    log, options = out.with_suffix(".log"), dict(zip(more[::2], more[1::2], strict=True))
    ranks = int(options.get("--devices", 1))
    code, _ = train(["train", *SETTINGS, "--out", str(out), *more], log, ranks=ranks)
    return code, log.read_text()


def _train(out, *more):
    code, printed = _run(out, *more)
    assert code == 0, printed


def _history(out):
    with (out / "history.csv").open(newline="") as file:
        return [{name: float(v) for name, v in row.items()} for row in csv.DictReader(file)]


def _state(out):
    return torch.load(out / "last.ckpt", weights_only=True)


@pytest.mark.slow
def test_all_ranks_get_the_buffers_of_the_first(tmp_path):
    start_processes(_have_own_buffers, (str(tmp_path / "store"),), 2, start_method="forkserver")


def _have_own_buffers(rank: int, store: str) -> None:
    """Buffers of three dtypes and four shapes, of which one is not contiguous."""
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    model = nn.Sequential(nn.BatchNorm2d(5), nn.BatchNorm2d(3).double())
    model.register_buffer("turned", torch.zeros(4, 3).T)
    for number, buffer in enumerate(model.buffers()):
        values = 100 * rank + 10 * number + torch.arange(buffer.numel())
        buffer.copy_(values.view(buffer.shape))
    share_buffers(model)
    for number, buffer in enumerate(model.buffers()):
        values = 10 * number + torch.arange(buffer.numel())
        assert torch.equal(buffer, values.view(buffer.shape).to(buffer.dtype))
    dist.destroy_process_group()


SIZES = {"embed_dim": 32, "num_heads": 2, "depth": 2, "img_size": 32}
DENSE = {**SIZES, "num_classes": 3, "channels": 16, "global_blocks": [1]}
UNITS = {
    "kat_micro": SIZES,
    "kat_det_micro": DENSE,
    "kat_upernet_micro": {**DENSE, "auxiliary": 8, "norm": "layer", "scales": [2.0, 0.5]},
}
"""Models that FSDP shards, and their arguments."""


@pytest.mark.slow
@pytest.mark.parametrize("name", most_at_night(UNITS, ["kat_micro"]))
def test_fsdp_gathers_one_block_at_a_time(tmp_path, name):
    start_processes(_shard, (str(tmp_path / "store"), name), 2, start_method="forkserver")


def _shard(rank: int, store: str, name: str) -> None:
    """A step has the gradients of the whole model, also where ranks have images of other sizes."""
    dist.init_process_group("gloo", store=dist.FileStore(store, 2), rank=rank, world_size=2)
    torch.manual_seed(0)
    whole = create_model(name, **UNITS[name])
    sharded, gathered = copy.deepcopy(whole), []
    wrap(sharded, World(rank, rank, 2, 2), "fsdp", torch.device("cpu"))
    for index, block in enumerate(sharded.blocks):
        block.mlp.register_forward_pre_hook(partial(_note, gathered, index, sharded.blocks))
    sides = [(32, 32), (32, 32), (24, 32), (32, 16)][: 2 + 2 * rank]
    inputs: tuple = (torch.randn(2, 3, 32, 32),)
    if name == "kat_det_micro":
        box = {"boxes": torch.tensor([[2.0, 2, 14, 14]]), "labels": torch.tensor([1])}
        inputs = ([torch.randn(3, *side) for side in sides],)
        inputs += ([box | {"masks": torch.ones(1, *side)} for side in sides],)
    for model in (sharded, whole):
        torch.manual_seed(1)
        sum(part.mean() for part in tree_leaves(model(*inputs))).backward()
    assert {*gathered} == {(0, (0,)), (1, (1,))}
    for got, want in zip(sharded.parameters(), whole.parameters(), strict=True):
        dist.all_reduce(want.grad)
        torch.testing.assert_close(got.grad.full_tensor(), want.grad / 2)
    dist.destroy_process_group()


def _note(gathered: list, index: int, blocks: nn.Sequential, *_: object) -> None:
    """Add a block and the blocks whose weights are whole while it runs."""
    weights = [block.mlp.fc1.weight for block in blocks]
    whole = [number for number, weight in enumerate(weights) if not isinstance(weight, DTensor)]
    gathered.append((index, tuple(whole)))


@pytest.fixture(scope="module")
def run_of(tmp_path_factory):
    """The folder of a run by its division, made when it is first asked for."""
    root = tmp_path_factory.mktemp("runs")

    @cache
    def make(name):
        if name != "ddp":
            _train(root / name, *DIVISIONS[name])
            return root / name
        process = _start(root / name, *DIVISIONS[name])  # by kat's own launcher
        printed, errors = process.communicate(timeout=900)
        assert process.returncode == 0, errors
        assert printed.count("best top-1") == 1
        return root / name

    return make


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", pytest.param("fsdp", marks=pytest.mark.release)])
def test_two_processes_train_as_one_with_their_joint_batch(run_of, name):
    """Validation has 360 images: 6 batches of 64, or 6 of 32 in each process; none is whole."""
    alone, together = run_of("one"), run_of(name)
    one, two = _state(alone), _state(together)
    for key in ("state_dict", "raw_state_dict"):
        torch.testing.assert_close(two[key], one[key], rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(_history(together), _history(alone), strict=True):
        assert ours["top1"] == theirs["top1"]
        assert ours["raw_top5"] == theirs["raw_top5"]
        assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.release
def test_sharded_processes_that_are_no_longer_finite_stop_and_keep_the_state_before(tmp_path):
    out, rate = tmp_path / "run", ("--optim.lr", "1e18", "--optim.warmup_epochs", "0")
    code, errors = _run(out, *DIVISIONS["fsdp"], *rate)
    assert code == 1, errors
    assert "not finite at step" in errors
    assert str(out / "last_good.ckpt") in errors
    weights = torch.load(out / "last_good.ckpt", weights_only=True)["raw_state_dict"]
    assert all(weight.isfinite().all() for weight in weights.values())


@pytest.mark.release
def test_processes_with_different_numbers_of_validation_batches(tmp_path):
    """9 images in batches of 4: 5 of one process, 4 of the other, which joins in if sharded.

    With an EMA, both wait for each other in the passes with and without it.
    """
    write_folder(tmp_path / "data", classes=3, train=4, val=3)
    found = {}
    for strategy in ("ddp", "fsdp"):
        _train(
            tmp_path / strategy, "--data.name", f"folder:{tmp_path / 'data'}", "--strategy",
            strategy, "--data.image_size", "8", "--data.batch_size", "4", "--devices", "2",
            "--optim.clip_coefficients", "10",  # a shard of coefficients may be empty
        )  # fmt: skip
        found[strategy] = _history(tmp_path / strategy)
    assert len(found["ddp"]) == 2
    for ours, theirs in zip(found["fsdp"], found["ddp"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)


@pytest.mark.parametrize("name", ["ddp", "fsdp"])
@pytest.mark.release
def test_two_processes_that_are_asked_to_stop_are_resumed_to_the_same_end(run_of, tmp_path, name):
    """SIGTERM comes to the first process alone, while it trains."""
    out = tmp_path / "run"
    process = _start(out, *DIVISIONS[name], "--checkpoint.every_n_steps", "2", "--resume", "auto")
    wait_until((out / "metrics.csv").exists, process)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=900)
    assert process.returncode in (0, 75), errors  # 0: later than training
    _train(out, *DIVISIONS[name], "--checkpoint.every_n_steps", "2", "--resume", "auto")
    ours, theirs = _state(out), _state(run_of(name))
    for key in ("state_dict", "raw_state_dict"):
        assert_equal(ours[key], theirs[key])
    assert _history(out) == _history(run_of(name))


@pytest.mark.release
def test_a_run_whose_launcher_is_killed_keeps_its_directory_while_it_still_writes(tmp_path):
    """Its processes are stopped, as if they were still writing a checkpoint."""
    out = tmp_path / "run"
    process = _start(out, *DIVISIONS["ddp"])
    wait_until((out / "metrics.csv").exists, process)
    ranks = children(process.pid)
    for rank in ranks:
        os.kill(rank, signal.SIGSTOP)
    process.kill()
    process.wait()
    try:
        with pytest.raises(InputError, match="another run"), locked_run(out):
            pass
    finally:
        for rank in ranks:
            os.kill(rank, signal.SIGKILL)
        process.communicate(timeout=100)
