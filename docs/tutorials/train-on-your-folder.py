# %% [markdown]
# # Train on your folder
#
# From a folder of images to a model that predicts, with three commands. Yours has another name; here we write
# one first, of the handwritten digits in scikit-learn, so that this page runs anywhere.
#
# The layout is ImageNet's: a folder for each class. Without a validation split, a tenth of each class is held
# out ([data](../data.md)).

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
# Everything below is a command for a shell. The notebook runs it and shows the end of what it prints.


# %%
def shell(command, lines=4):
    """Runs a command and shows the end of what it prints."""
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(f"$ {command}", *done.stdout.strip().splitlines()[-lines:], sep="\n")


# %% [markdown]
# ## Look at the data first
#
# Damaged images, classes that one split lacks and images in both splits are found before they cost a run.

# %%
shell("kat data check folder:images")

# %% [markdown]
# ## Train
#
# `kat_micro_patch2_8` is a KAT of 0.2 million parameters for images of 8 pixels. The settings on the command line are
# the ones that one usually changes; `kat train --help-all` shows all of them, and
# [fine-tuning](../fine-tuning.md) is the page for photographs, where one starts from trained weights.

# %%
shell(
    "kat train --data folder:images --data.image_size 8 --data.channels 1 --data.batch_size 64"
    " --model.name kat_micro_patch2_8 --epochs 10 --optim.lr 0.003 --optim.warmup_epochs 1"
    " --out runs/mine --no-progress"
)

# %% [markdown]
# One line an epoch. A run can be stopped at any moment; the same command with `--resume auto` continues it and
# ends with the same bits ([why](../training.md#stopping-and-resuming)).
#
# ## See how it went

# %%
shell("kat plot curves runs/mine --out curves.png")
Picture("curves.png", width=700)

# %% [markdown]
# ## Predict
#
# The model's folder has what an image must go through, and the names of the classes.

# %%
shell("kat predict 'images/digit 3/3.png' 'images/digit 7/7.png' --checkpoint runs/mine")

# %% [markdown]
# ## From Python
#
# What the commands do is a call away.

# %%
from kat.models import load_model
from kat.training import read_history

model, record = load_model(Path("runs/mine"))
best = max(read_history(Path("runs/mine")), key=lambda row: row["top1"])
print(f"{record.architecture}, {len(record.classes)} classes, top-1 {best['top1']:.1f} %")

# %% [markdown]
# `kat report runs/mine` makes one page of all this, and of what the activations learned
# ([reports](../report.md)). To use the model elsewhere, [export it](vit-to-kat.py).
