"""``kat convert``: make a KAT from a trained ViT, and report how much its outputs change.

Copies attention, norms, embeddings, fc1 and fc2, sets act1 to the identity, and fits act2 to the
ViT's activation. Prints what was copied, resized and dropped.

SOURCE is one of
  a file:      a state dict of timm's ViT, DeiT, DeiT III, AugReg, DINOv2 (.safetensors, .pth);
               --args names what a plain ViT lacks
  a folder:    with model.safetensors and config.json, or a run directory
  a name:      a pretrained timm model, or hf-hub:OWNER/NAME

examples:
  kat convert vit_tiny_patch16_224.augreg_in21k --model kat_tiny_patch16_224 --out kat_tiny
  kat convert vit_small_patch14_dinov2 --model kat_small_patch16_224 --args '{patch_size: 14}' \\
      --out kat_s14
  kat convert deit_3_small.pth --model kat_small_patch16_224 --images val/*.jpg --out kat_small \\
      --args '{init_values: 1e-5, no_embed_class: true}'
  kat convert runs/vit --model kat_micro_patch4_28 --out kat_micro
  kat eval kat_micro --data fashion_mnist
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import kat
from kat.cli.options.parser import Parser
from kat.tables import aligned
from kat.text import say_all

REPORT = "conversion.json"


def main(arguments: list[str]) -> None:
    """Convert, save, print a table."""
    options = make_parser().parse_args(arguments)
    from kat.data.transforms import read_images  # imports torch

    out: Path = options.out
    source = kat.models.read_vit(options.source)
    given = {n: tuple(getattr(options, n)) for n in ("mean", "std") if getattr(options, n)}
    model, record, report = kat.models.convert_vit(
        source,
        options.model,
        args=options.args,
        num_classes=options.num_classes,
        activation=options.activation,
        images=partial(read_images, options.images) if options.images else None,
        preprocessing=given,
    )
    kat.models.save_model(model, record, out)
    report.save(out / REPORT)
    known = given or source.preprocessing
    origin = "the source's" if known else "assumed: the source does not say; --mean, --std"
    rows = report.rows("images" if options.images else "images of noise")
    rows.insert(1, ("to", f"{record.architecture} {record.args or ''}"))
    rows.append(("preprocessing", f"mean {record.mean}, std {record.std} ({origin})"))
    say_all([*aligned(rows), "", f"the model and {REPORT} are in {out}"])


def make_parser() -> Parser:
    """Return the parser of ``kat convert``."""
    parser = Parser(__doc__, "SOURCE")
    add = parser.add
    add("source", metavar="SOURCE", help="the trained ViT, see above")
    add("--model", required=True, metavar="NAME", help="the KAT, e.g. kat_tiny_patch16_224")
    parser.add_folder("--out", "a new or empty folder", new=True, required=True)
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
