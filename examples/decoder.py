"""A language model with GR-KAN: a decoder that learns to continue any text, byte by byte.

    python examples/decoder.py /usr/share/doc/python3-doc/html/_sources --prompt "The list"

The same command resumes an interrupted run, bit for bit. docs/language-model.md explains more.
"""

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import kat


@dataclass
class Config:
    """Settings of a run: the options of the command."""

    optimizer: str = "adamw"  # or muon: Muon for the matrices, AdamW for the rest
    groups: int = 8  # of the rationals; 0: GELU
    width: int = 128
    depth: int = 4
    context: int = 128
    batch: int = 8
    steps: int = 1000
    lr: float = 2e-3
    seed: int = 0


def read(paths: list[Path]) -> tuple[Tensor, Tensor]:
    """Return the bytes to train on, and the held-out ones: 10 of 100 equal pieces."""
    files = []
    for path in paths:
        files += sorted(path.rglob("*.txt")) if path.is_dir() else [path]
    text = b"\n".join(file.read_bytes() for file in files)
    if len(text) < 100_000:
        raise SystemExit(f"{len(files)} files have {len(text):,} bytes: give at least 100,000")
    pieces = torch.frombuffer(bytearray(text), dtype=torch.uint8).tensor_split(100)
    return torch.cat([piece for i, piece in enumerate(pieces) if i % 10]), torch.cat(pieces[::10])


class Block(nn.Module):
    """Causal attention and an MLP, each after a norm and added to its input."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width), nn.RMSNorm(width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.mlp = kat.GRKANMlp(width, 4 * width, num_groups=groups or 1, act_init="gelu")
        if groups == 0:
            self.mlp.act1, self.mlp.act2 = nn.Identity(), nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """Map x (batch, length, width) to the same shape."""
        q, k, v = self.qkv(self.norm1(x)).unflatten(2, (3, -1, 32)).permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Decoder(nn.Module):
    """A decoder: bytes (batch, length) to logits of each next byte (batch, length, 256)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.tokens = nn.Embedding(256, config.width)
        self.positions = nn.Parameter(0.02 * torch.randn(config.context, config.width))
        blocks = [Block(config.width, config.groups) for _ in range(config.depth)]
        self.blocks = nn.Sequential(*blocks, nn.RMSNorm(config.width))
        self.head = nn.Linear(config.width, 256, bias=False)
        self.head.weight = self.tokens.weight
        nn.init.normal_(self.tokens.weight, std=0.02)  # GR-KAN layers keep their own weights

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        return self.head(self.blocks(self.tokens(x) + self.positions[: x.shape[1]]))


class Run:
    """A run: the model, its optimizers and the number of steps made, as a checkpoint holds them."""

    def __init__(self, config: Config) -> None:
        torch.manual_seed(config.seed)
        self.config, self.step = config, 0
        self.model = Decoder(config)
        self.parts = kat.split_parameters(self.model)
        self.optimizers = self.make_optimizers()

    def make_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return AdamW, or Muon for the matrices, with AdamW's rate, and AdamW for the rest."""
        lr, betas, decay = self.config.lr, (0.9, 0.95), 0.1
        if self.config.optimizer == "adamw":
            groups = kat.param_groups(self.model, lr, weight_decay=decay)
            return [torch.optim.AdamW(groups, betas=betas)]
        matrices, coefficients, rest = self.parts
        muon = torch.optim.Muon(matrices, lr, decay, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW([*coefficients, *rest], lr, betas, weight_decay=0.0)]

    def train_step(self, text: Tensor) -> tuple[float, float]:
        """Make a step; return the loss and the coefficients' share of the gradient norm."""
        loss = nats_per_byte(self.model, self.batch(text))
        if not loss.isfinite():
            raise SystemExit(f"step {self.step}: the loss is {loss.item()}; lower --lr")
        self.model.zero_grad()
        loss.backward()
        share = self.clip()
        factor = min((self.step + 1) / 50, 1 - 0.9 * self.step / self.config.steps)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.lr * factor
            optimizer.step()
        self.step += 1
        return loss.item(), share

    def batch(self, text: Tensor) -> Tensor:
        """Draw (batch, context + 1) bytes by seed and step alone, so that a run resumes exactly."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        context, size = self.config.context, (self.config.batch, 1)
        starts = torch.randint(len(text) - context, size, generator=generator)
        return text[starts + torch.arange(context + 1)].long()

    def clip(self) -> float:
        """Clip the norm of the gradient to 1, and return the coefficients' share of it."""
        norms = [nn.utils.get_total_norm(p.grad for p in part) for part in self.parts]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        return (norms[1] / torch.stack(norms).norm()).item()

    def save(self, path: Path) -> None:
        """Write the checkpoint, in place of the previous one as soon as it is complete."""
        states = [part.state_dict() for part in (self.model, *self.optimizers)]
        torch.save((vars(self.config), self.step, states), path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)

    def load(self, path: Path) -> None:
        """Read a checkpoint of this run."""
        settings, self.step, states = torch.load(path, weights_only=True)
        if settings != vars(self.config):
            raise SystemExit(f"{path} has other settings, so give another --out: {settings}")
        for part, state in zip((self.model, *self.optimizers), states, strict=True):
            part.load_state_dict(state)


def nats_per_byte(model: nn.Module, x: Tensor) -> Tensor:
    """Return the mean loss of the bytes x (batch, context + 1), given those before."""
    return functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


@torch.no_grad()
def bits_per_byte(model: Decoder, text: Tensor) -> float:
    """Return the bits per byte in 256 windows that are evenly spaced in a text."""
    context = len(model.positions)
    starts = torch.linspace(0, len(text) - 1 - context, 256).long()
    windows = text[starts[:, None] + torch.arange(context + 1)].long()
    return nats_per_byte(model, windows).item() / math.log(2)


@torch.no_grad()
def generate(model: Decoder, prompt: str, count: int) -> str:
    """Return the prompt and ``count`` more bytes, drawn from the model."""
    x = torch.tensor([list(prompt.encode())])
    for _ in range(count):
        logits = model(x[:, -len(model.positions) :])[:, -1] / 0.7
        x = torch.cat([x, torch.multinomial(logits.softmax(-1), 1)], 1)
    return bytes(x[0].tolist()).decode(errors="replace")


def main() -> None:
    """Train or resume a model, then continue a prompt."""
    parser = argparse.ArgumentParser(description="Train a language model with GR-KAN.")
    parser.add_argument("text", type=Path, nargs="+", help="text files, or folders of *.txt")
    parser.add_argument("--out", type=Path, default=Path("runs/decoder"))
    parser.add_argument("--prompt", help="a text to continue by 300 bytes after the training")
    for field in fields(Config):
        parser.add_argument(f"--{field.name}", type=type(field.default), default=field.default)
    options = parser.parse_args()
    config = Config(**{field.name: getattr(options, field.name) for field in fields(Config)})
    run = Run(config)
    text, held_out = read(options.text)
    checkpoint = options.out / "checkpoint.pt"
    options.out.mkdir(parents=True, exist_ok=True)
    if checkpoint.exists():
        run.load(checkpoint)
    while run.step < config.steps:
        _, share = run.train_step(text)
        if run.step % 100 == 0 or run.step == config.steps:
            run.save(checkpoint)
            bits = bits_per_byte(run.model, held_out)
            print(f"step {run.step}: {bits:.3f} bits, coefficients {share:.0%} of the gradient")
    if options.prompt:
        print(generate(run.model, options.prompt, 300))


if __name__ == "__main__":
    main()
