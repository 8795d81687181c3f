"""Two machines under torchrun's elastic launcher; one is killed, comes back; the end is compared.

The machines are two network namespaces of this one, joined by a virtual cable: each has its own
network interface and address and runs its own launcher, as the nodes of a cluster do. Their folder
is shared. The second one is killed with SIGKILL, launcher and all, in the middle of an epoch; the
first one's launcher sees its process fail and waits for a second machine; that is started again,
and both resume from the newest checkpoint. Weights and EMA must be those of an undisturbed run.

Needs Linux, root, and the program ``ip`` (Debian: iproute2).

    python benchmarks/two_machines.py [--log benchmarks/results/two_machines.log]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

SETTINGS = shlex.split("""
--config digits --epochs 3 --optim.warmup_epochs 1 --no-progress --accelerator cpu --num_nodes 2
--data.batch_size 32 --optim.ema_decay 0.99 --augment.mixup 0.8 --checkpoint.every_n_steps 2
--limit_train_batches 20 --resume auto
""")
NETWORK = "10.213.77"
PORT = 29411
AWAY = 20
"""Seconds for which it is away: longer than the launchers take to notice (15)."""
KILLED_AT = 25
"""The step from which on the second machine is killed: within the second epoch of 20 steps."""


class Log:
    """Lines with the time since the start, to the terminal and to a file.

    Args:
        path: of the file, or None.
    """

    def __init__(self, path: Path | None) -> None:
        self.start = time.monotonic()
        self.file = path.open("w") if path else None

    def __call__(self, line: str) -> None:
        text = f"{time.monotonic() - self.start:6.1f} s  {line}"
        print(text, flush=True)
        if self.file:
            self.file.write(text + "\n")
            self.file.flush()


def ip(*arguments: str) -> None:
    """Runs ``ip``."""
    subprocess.run(["ip", *arguments], check=True)


@contextmanager
def machines() -> Iterator[list[str]]:
    """Two namespaces with a cable between them."""
    names = [f"kat{os.getpid()}m{number}" for number in (1, 2)]
    cables = [f"kv{os.getpid() % 100000}m{number}" for number in (1, 2)]
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", cables[0], "type", "veth", "peer", "name", cables[1])
        for number, (name, cable) in enumerate(zip(names, cables, strict=True), 1):
            ip("link", "set", cable, "netns", name)
            ip("-n", name, "link", "set", cable, "name", "eth0")
            ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", "eth0")
            ip("-n", name, "link", "set", "eth0", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


def launch(name: str, number: int, out: Path, log: Path) -> subprocess.Popen[bytes]:
    """Starts torchrun on a machine, in a process group of its own."""
    command = [
        "ip", "netns", "exec", name,
        sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1",
        "--max-restarts", "3", "--rdzv-backend", "c10d", "--rdzv-id", out.name,
        "--rdzv-endpoint", f"{NETWORK}.1:{PORT}", "--local-addr", f"{NETWORK}.{number}",
        "--rdzv-conf", f"is_host={int(number == 1)}",
        "-m", "kat_command", "train", *SETTINGS, "--out", str(out),
    ]  # fmt: skip
    settings = {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "eth0",
        # Without it a launcher publishes its address once, and one that joins later never finds it.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with log.open("ab") as file:
        return subprocess.Popen(
            command, env=os.environ | settings, stdout=file, stderr=file, start_new_session=True
        )


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a launcher and all that it has started, whatever their groups."""
    found = [process.pid]
    for pid in found:
        children = Path(f"/proc/{pid}/task/{pid}/children")
        if children.exists():
            found += map(int, children.read_text().split())
    for pid in found:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()


def step(out: Path) -> int:
    """The step of the newest checkpoint."""
    try:
        return int(torch.load(out / "last.ckpt", weights_only=True)["state"]["step"])
    except (OSError, RuntimeError):
        return -1


def digest(out: Path) -> str:
    """SHA-256 of the weights and their EMA."""
    state = torch.load(out / "last.ckpt", weights_only=True)
    sha = hashlib.sha256()
    for key in ("raw_state_dict", "state_dict"):
        for name in sorted(state[key]):
            sha.update(state[key][name].numpy().tobytes())
    return sha.hexdigest()


def wait(processes: list[subprocess.Popen[bytes]], logs: list[Path]) -> None:
    """Waits for both machines; if one fails, the other is killed."""
    try:
        codes = [process.wait(timeout=600) for process in processes]
    finally:
        for process in processes:
            if process.poll() is None:
                kill(process)
    if any(codes):
        ends = "\n".join(f"{log.name}:\n{log.read_text()[-3000:]}" for log in logs)
        raise SystemExit(f"a machine failed: exit codes {codes}\n{ends}")


def main() -> None:
    """Runs undisturbed, then with the kill, and compares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--log", type=Path, help="write the lines to this file too")
    options = parser.parse_args()
    if shutil.which("ip") is None or os.geteuid() != 0:
        raise SystemExit("needs root, and the program ip (Debian: iproute2)")
    log = Log(options.log)
    with tempfile.TemporaryDirectory() as folder, machines() as names:
        clean, killed = Path(folder) / "clean", Path(folder) / "killed"
        logs = [Path(folder) / f"machine{number}.log" for number in (1, 2)]
        log("two machines train, undisturbed")
        wait([launch(n, i, clean, logs[i - 1]) for i, n in enumerate(names, 1)], logs)
        log(f"done at step {step(clean)}: SHA-256 {digest(clean)[:16]}")

        log("two machines train again")
        first, second = (launch(n, i, killed, logs[i - 1]) for i, n in enumerate(names, 1))
        while step(killed) < KILLED_AT:
            if first.poll() is not None or second.poll() is not None:
                wait([first, second], logs)
                raise SystemExit(f"training ended before step {KILLED_AT}")
            time.sleep(0.05)
        kill(second)
        log(f"machine 2 killed; the newest checkpoint is of step {step(killed)}")
        time.sleep(AWAY)
        log(f"machine 1 {'waits' if first.poll() is None else 'has given up'}")
        second = launch(names[1], 2, killed, logs[1])
        log("machine 2 started again")
        wait([first, second], logs)
        log(f"done at step {step(killed)}: SHA-256 {digest(killed)[:16]}")
        same = digest(clean) == digest(killed)
        log("the same bits" if same else "DIFFERENT")
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
