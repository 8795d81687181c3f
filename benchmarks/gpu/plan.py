"""Where the steps of the report run, and their sizes: on a GPU, and on what stands in for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from timing import ACCELERATORS

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """Where the steps run, and their sizes.

    Attributes:
        device: of the tensors.
        tests: what pytest is given.
        environment: variables of the steps.
        smoke: two shapes of x, of which the kernels divide the second by group.
        copied: sizes of the arrays whose copy is timed, in bytes.
        shape: of x in the equal runs.
        runs: how many of them.
        shapes: of the kernels' and the operator's benchmarks; the first is also compiled.
        calls: how many in a row are timed for the host's time of one.
        mlp: size and batch of the MLP's benchmark.
        models: batch of the models under autocast, by size; the goals are the first's.
        training: steps of the training whose loss is compared with the CPU's, a multiple of 4.
        seconds: for each line of a benchmark.
        peers: names and paths of published kernels, as the command line has them.
    """

    device: str
    tests: tuple[str, ...]
    environment: dict[str, str]
    smoke: tuple[tuple[int, ...], ...]
    copied: tuple[int, ...]
    shape: tuple[int, ...]
    runs: int
    shapes: tuple[str, ...]
    calls: int
    mlp: tuple[str, int]
    models: dict[str, int]
    training: int
    seconds: float
    peers: tuple[str, ...] = ()

    @property
    def stand_in(self) -> bool:
        return self.device == "cpu"

    @property
    def half(self) -> str:
        """The dtype of 16 bits: GPUs before sm_80 have no bfloat16, and emulate it."""
        major, _ = ACCELERATORS[self.device].get_device_capability()
        return "float16" if major < 8 else "bfloat16"

    @property
    def dtypes(self) -> tuple[str, str]:
        """The dtypes of the measurements."""
        return self.half, "float32"


GPU = Plan(
    device="cuda",
    tests=tuple(str(path) for path in sorted(ROOT.glob("tests/ops/triton/test_gpu*.py"))),
    # The CPU kernel would be built first; the report itself compares and times the GPU kernels.
    environment={"KAT_CPU_KERNEL": "off", "KAT_GPU_CHECK": "off"},
    # Several blocks for each program; with 2 groups a row of 4112 has a period above the longest.
    smoke=((1013, 768), (197, 4112)),
    copied=(2**26, 2**28, 2**30),
    shape=(128, 197, 768),
    runs=20,
    # Larger than the caches, and longer to run than Python takes to start them.
    shapes=("256x197x3072", "1024x197x768"),
    calls=100,
    mlp=("base", 128),
    models={"base": 128, "small": 256, "tiny": 512},
    training=200,
    seconds=1.0,
)
STAND_IN = Plan(
    device="cpu",
    tests=(str(ROOT / "tests/ops/triton/interpreted.py"), "-k", "int64_offsets or expanded"),
    environment={},
    smoke=((7, 96), (1, 4112)),
    copied=(2**16,),
    shape=(2, 3, 16),
    runs=2,
    shapes=("2x3x16",),
    calls=2,
    mlp=("tiny", 1),
    models={"micro": 2},
    training=4,
    seconds=0.0,
)
