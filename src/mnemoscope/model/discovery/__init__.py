"""Discovery of a model's structure from one recorded forward pass."""
