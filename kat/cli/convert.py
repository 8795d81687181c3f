"""``kat convert``: make a KAT from a trained ViT, and say how far its outputs moved.

Attention, norms, embeddings, fc1 and fc2 are carried over, act1 is the identity, act2 is fitted to
the ViT's activation. Prints what was carried over, resized and dropped.

SOURCE is one of
  a file:      a state dict of timm's ViT, DeiT, DeiT III, AugReg, DINOv2 (.safetensors, .pth), or
               Google's .npz
  a folder:    with model.safetensors and config.json, or a run directory
  a name:      a pretrained timm model, or hf_hub:ORG/NAME

examples:
  kat convert vit_tiny_patch16_224.augreg_in21k --model kat_tiny_patch16_224 --out kat_tiny
  kat convert deit_3_small.pth --model kat_small_patch16_224 --out kat_small --images val/*.jpg
  kat convert dinov2_vitb14.pth --model kat_base_patch16_224 --args '{patch_size: 14}' --out kat_b14
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat eval kat_micro --data fashion_mnist
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kat.cli.parsing import Parser
from kat.data import UnreadableImage, decode, eval_transform
from kat.errors import InputError
from kat.files import write_text
from kat.models import Conversion, ModelRecord, convert_vit, read_vit, save_model
from kat.models.conversion.convert import make_record
from kat.tables import aligned
from kat.text import counted, listing

REPORT = "conversion.json"
_GOAL = 1e-2


def main(arguments: list[str]) -> None:
    """Converts, saves, prints a table."""
    options = make_parser().parse_args(arguments)
    out: Path = options.out
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists already; give another --out")
    for above in out.parents:
        if above.is_file():
            raise InputError(f"--out {out} cannot be made: {above} is a file")
    source = read_vit(options.source)
    known = {n: tuple(getattr(options, n)) for n in ("mean", "std") if getattr(options, n)}
    source = dataclasses.replace(source, preprocessing={**source.preprocessing, **known})
    record = make_record(source, options.model, options.args, options.num_classes)
    images = _images(options.images, record) if options.images else None
    model, record, report = convert_vit(
        source,
        options.model,
        args=options.args,
        num_classes=options.num_classes,
        activation=options.activation,
        images=images,
    )
    save_model(model, record, out)
    write_text(out / REPORT, json.dumps(report.to_dict(), indent=2) + "\n")
    rows = table_rows(report, record, known=bool(source.preprocessing), noise=images is None)
    sys.stdout.write(f"{aligned(rows)}\n\nthe model and {REPORT} are in {out}\n")


def make_parser() -> Parser:
    """The parser of ``kat convert``."""
    parser = Parser(__doc__, "SOURCE")
    add = parser.add
    add("source", metavar="SOURCE", help="the trained ViT, see above")
    add("--model", required=True, metavar="NAME", help="the KAT, e.g. kat_tiny_patch16_224")
    add("--out", type=Path, required=True, metavar="FOLDER", help="a new or empty folder")
    add(
        "--args",
        type=dict[str, Any],
        default={},
        help="further arguments of the KAT's constructor, e.g. '{degree: [9, 8]}' for a closer fit",
    )
    add("--num-classes", type=int, metavar="N", help="make a new head for this number of classes")
    add(
        "--activation",
        metavar="NAME",
        help="the ViT's, if SOURCE is a file: gelu (the default), quick_gelu, silu, ...",
    )
    add(
        "--images",
        nargs="+",
        metavar="IMAGE",
        help="images to measure the inputs of the activation and the outputs on (default: noise)",
    )
    for name in ("mean", "std"):
        add(
            f"--{name}",
            nargs="+",
            type=float,
            help=f"the {name} of each channel in the ViT's training, if SOURCE does not say",
        )
    return parser


def _images(paths: list[str], record: ModelRecord) -> Tensor:
    transform = eval_transform(record)
    mode = "L" if record.input_size[0] == 1 else "RGB"
    try:
        return torch.stack([transform(decode(path).convert(mode)) for path in paths])
    except UnreadableImage as error:
        raise InputError(f"{error}") from None


def table_rows(
    report: Conversion, record: ModelRecord, *, known: bool, noise: bool
) -> list[tuple[str, str]]:
    """The printed table of a conversion.

    Args:
        report: of the conversion.
        record: of the KAT.
        known: whether the source says how its images were prepared.
        noise: whether the outputs were compared on noise.
    """
    rows = [("from", report.source), ("to", f"{record.architecture} {record.args or ''}")]
    rows.append(("carried", counted(len(report.carried), "tensor")))
    for name, (there, here) in report.resized.items():
        rows.append(("resized", f"{name} {there} to {here}"))
    rows += [("dropped", name) for name in report.dropped]
    rows.append(("fresh", _tensors(report.fresh)))
    if report.activation is not None:
        widths = ", ".join(map(str, report.half_widths))
        rows.append(("act2", f"{report.activation} on [-r, r], r = {widths} block by block"))
        rows.append(("", f"off by {report.fit_error:.1e} at most there"))
    if report.moved is not None:
        what = "images of noise" if noise else "images"
        rows.append(("outputs moved", f"{report.moved.max:.2e} max, {report.moved.rms:.2e} RMS"))
        rows.append(("", f"relative to the ViT's, on {report.moved.images} {what}"))
        if max(report.moved.max, report.moved.rms) > _GOAL:
            rows.append(("", "more than 1e-2: --args '{degree: [9, 8]}' follows more closely"))
    origin = "the source's" if known else "assumed: the source does not say; --mean, --std"
    rows.append(("preprocessing", f"mean {record.mean}, std {record.std} ({origin})"))
    return rows


def _tensors(names: list[str]) -> str:
    return f"{counted(len(names), 'tensor')}: {listing(names, 4)}" if names else "nothing"
