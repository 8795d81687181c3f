"""How models are evaluated on data sets, and what is found out about the result."""
