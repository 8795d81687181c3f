"""Starting a model from a trained ViT, and making a KAT that computes what the ViT does."""
