"""What models have learned and what they predict: activations, attention, symbols, confusion."""
