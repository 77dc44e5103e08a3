"""Whole posteriors against reference draws: models, references, scores, and the program that runs methods on all of them."""
