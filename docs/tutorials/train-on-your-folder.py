# %% [markdown]
# # Train on your folder
#
# `kat train --data folder:images` trains on a folder that contains one folder of images per class. If there is no
# validation split, the command holds out a tenth of each class ([data](../data.md)). This page first writes
# scikit-learn's handwritten digits as such a folder. If you have a folder, skip this step. **One run of a toy model is
# no evidence about KAT**; see [results](../results.md).

# %%
import os
import subprocess
import tempfile
from pathlib import Path

from IPython.display import Image as Picture
from PIL import Image
from sklearn.datasets import load_digits

os.chdir(tempfile.mkdtemp())
digits = load_digits()
for index, (pixels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
    folder = Path("images") / f"digit {label}"
    folder.mkdir(parents=True, exist_ok=True)
    Image.fromarray((pixels * 15).astype("uint8")).save(folder / f"{index}.png")
print(sorted(path.name for path in Path("images").iterdir()))


# %% [markdown]
# The next steps are shell commands. For each the notebook shows the end of its output.


# %%
def shell(command, lines=4):
    """Run a command and show the end of what it prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(f"$ {command}", *done.stdout.strip().splitlines()[-lines:], sep="\n")


# %% [markdown]
# ## Look at the data first
#
# `kat data check` finds damaged images, missing classes, and images that are in both splits.

# %%
shell("kat data check folder:images")

# %% [markdown]
# ## Train
#
# `kat_micro_patch2_8` is a KAT with 0.2 million parameters for images of 8 × 8 pixels. For photographs, start from
# trained weights ([fine-tuning](../fine-tuning.md)). `--config none` leaves out the recipe for photographs, which flips
# images. `kat train --help-all` shows all settings.

# %%
shell(
    "kat train --config none --data folder:images --data.image_size 8 --data.channels 1"
    " --data.batch_size 64 --model.name kat_micro_patch2_8 --epochs 10 --optim.lr 0.003"
    " --optim.warmup_epochs 1 --out runs/mine --no-progress"
)

# %% [markdown]
# You can stop a run at any moment. The same command with `--resume auto` continues it, and the final weights are [the
# same, bit by bit](../training.md#stop-and-resume).
#
# ## See how it went

# %%
shell("kat plot curves runs/mine --out curves.png")
Picture("curves.png", width=700)

# %% [markdown]
# ## Predict
#
# The run directory contains the weights, the preprocessing of images and the names of the classes.

# %%
shell("kat predict 'images/digit 3/3.png' 'images/digit 7/7.png' --checkpoint runs/mine")

# %% [markdown]
# ## From Python

# %%
from kat.models import load_model
from kat.training import read_history

model, record = load_model(Path("runs/mine"))
best = max(read_history(Path("runs/mine")), key=lambda row: row["top1"])
print(f"{record.architecture}, {len(record.classes)} classes, top-1 {best['top1']:.1f} %")

# %% [markdown]
# `kat report runs/mine` writes a page with curves, results and learned activations ([reports](../plots.md)). To use the
# model in other programs, [export it](vit-to-kat.py).
