"""GR-KAN layers on a CPU, a block of rows at a time.

F(x), the hidden layer of an MLP and their gradients are larger than the caches of a processor, and
each is written once and read once. Here they exist for one block of rows at a time, in memory that
is used again for the next block and so stays in the caches. In training the layers are one autograd
function, which keeps x and the hidden layer, or x alone, and computes F(x) again in the same pass
over x as its gradients.

:func:`layers` decides. A compiled operator decides again in each call, and the backward pass asks
whether its gradients will be differentiated.
"""

from kat.nn.blocks.decision import Modules as Modules
from kat.nn.blocks.decision import layers as layers
from kat.nn.blocks.execution import run as run
