"""How good a fitted latent variable model is: its density of held-out data, its latents, and what it draws."""

from pyrolvm.evaluation.held import split
from pyrolvm.evaluation.inference import evaluate
from pyrolvm.evaluation.result import Evaluation
from pyrolvm.evaluation.sampling import generate

__all__ = ["Evaluation", "evaluate", "generate", "split"]
