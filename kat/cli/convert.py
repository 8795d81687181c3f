"""``kat convert``: a KAT that computes what a trained ViT does."""

from __future__ import annotations

import sys
from argparse import RawDescriptionHelpFormatter
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kat.cli.parsing import Parser, run_command
from kat.data import UnreadableImage, decode, eval_transform
from kat.errors import InputError
from kat.files import check_new_folder
from kat.models import ModelRecord, convert_vit, read_vit, save_model
from kat.tables import aligned

REPORT = "conversion.json"
_DESCRIPTION = """Makes a KAT of a trained ViT: attention, norms, embeddings, fc1 and fc2 are
carried over, act1 is the identity, act2 is fitted to the ViT's activation. Prints what was carried,
resized, dropped, and how far the outputs moved.

SOURCE is one of
  a file:      a state dict of timm's ViT, DeiT, DeiT III, AugReg, DINOv2 (.safetensors, .pth), or
               Google's .npz
  a folder:    with model.safetensors and config.json, or a run's
  a name:      a pretrained timm model, or hf_hub:ORG/NAME

examples:
  kat convert vit_tiny_patch16_224.augreg_in21k --model kat_tiny_patch16_224 --out kat_tiny
  kat convert deit_3_small.pth --model kat_small_patch16_224 --out kat_small --images val/*.jpg
  kat convert dinov2_vitb14.pth --model kat_base_patch16_224 --args '{patch_size: 14}' --out kat_b14
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat eval --checkpoint kat_micro --data.name fashion_mnist
"""


def main(arguments: list[str]) -> int:
    """Parses the arguments, converts, saves, prints a table."""
    return run_command(lambda: _main(arguments))


def _main(arguments: list[str]) -> None:
    parsed = make_parser().parse_args(arguments)
    out = Path(parsed.out)
    check_new_folder(out)
    source = read_vit(parsed.source)
    given = {n: tuple(getattr(parsed, n)) for n in ("mean", "std") if getattr(parsed, n)}
    model, record, report = convert_vit(
        source,
        parsed.model,
        args=parsed.args,
        num_classes=parsed.num_classes,
        activation=parsed.activation,
        images=partial(_read_images, parsed.images) if parsed.images else None,
        preprocessing=given,
    )
    save_model(model, record, out)
    report.save(out / REPORT)
    known = given or source.preprocessing
    origin = "the source's" if known else "assumed: the source does not say; --mean, --std"
    rows = report.rows("images" if parsed.images else "images of noise")
    rows.insert(1, ("to", f"{record.architecture} {record.args or ''}"))
    rows.append(("preprocessing", f"mean {record.mean}, std {record.std} ({origin})"))
    sys.stdout.write(f"{aligned(rows)}\n\nthe model and {REPORT} are in {out}\n")


def make_parser() -> Parser:
    """The parser of ``kat convert``."""
    parser = Parser(
        prog="kat convert", description=_DESCRIPTION, formatter_class=RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE", help="the trained ViT, see above")
    parser.add_argument("--model", required=True, help="the KAT, e.g. kat_tiny_patch16_224")
    parser.add_argument("--out", required=True, help="a folder for the model, new or empty")
    parser.add_argument(
        "--args", type=dict[str, Any], default={},
        help="further arguments of the KAT's constructor, e.g. '{degree: [9, 8]}' for a closer fit",
    )  # fmt: skip
    parser.add_argument(
        "--num-classes", type=int | None, help="another number of classes, with a fresh head"
    )
    parser.add_argument(
        "--activation", type=str | None,
        help="the ViT's, where the source is a file: gelu (default), quick_gelu, silu, ...",
    )  # fmt: skip
    parser.add_argument(
        "--images", nargs="+", type=str,
        help="images to see the activation's inputs and the movement on (default: noise)",
    )  # fmt: skip
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}", nargs="+", type=float,
            help=f"the {name} of each channel that the ViT was trained with, where it is not known",
        )  # fmt: skip
    return parser


def _read_images(paths: list[str], record: ModelRecord) -> Tensor:
    transform = eval_transform(record)
    mode = "L" if record.input_size[0] == 1 else "RGB"
    try:
        return torch.stack([transform(decode(path).convert(mode)) for path in paths])
    except UnreadableImage as error:
        raise InputError(f"{error}") from None
