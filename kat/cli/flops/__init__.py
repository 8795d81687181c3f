"""``kat flops``: parameters, FLOPs and activation memory of models and layers.

examples:
  kat flops models                                       the paper's table of costs
  kat flops models runs/digits --layers
  kat flops layers 192 768                               MLP, GR-KAN and KAN layers
"""
