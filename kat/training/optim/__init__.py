"""How weights change: the optimizer and its schedule, precision, the EMA, what is frozen."""
