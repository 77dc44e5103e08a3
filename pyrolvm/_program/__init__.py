"""What the user writes, read and checked: a model with its data, and a guide."""
