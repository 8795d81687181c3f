"""``kat verify``: compare the backends on this machine with exact values.

examples:
  kat verify backends --out verify.html                  everything, about a minute
  kat verify model runs/digits                           the coefficients of a trained model
"""
