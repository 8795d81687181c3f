"""``kat plot``: figures of trained models and of comparisons.

The ending of --out chooses the format. 'kat report' makes a page of a run.

examples:
  kat plot activations runs/digits --out activations.svg
  kat plot evolution runs/digits --out evolution.gif
  kat plot attention runs/digits --out attention.png
  kat plot curves runs/kat runs/vit --out curves.png
  kat plot cost runs/ablation/models.csv --out cost.svg
  kat plot forest runs/ablation/models.csv runs/ablation/groups.csv --out forest.svg
"""
