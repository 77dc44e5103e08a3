"""How good a fitted latent variable model is: its density of held-out data, its latents, and what it draws."""

from pyrolvm._check.evaluate.held import split
from pyrolvm._check.evaluate.inference import evaluate
from pyrolvm._check.evaluate.result import Evaluation
from pyrolvm._check.evaluate.sampling import generate

__all__ = ["Evaluation", "evaluate", "generate", "split"]
