"""How models are evaluated on datasets, and what is found out about the result."""
