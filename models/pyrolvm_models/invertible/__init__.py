r"""Invertible blocks that compose: each maps data to noise, knows its inverse, and the log determinant of its Jacobian.

A flow gives data the density :math:`\log p(x) = \log p_z(f(x)) + \log |\det \partial f / \partial x|`. Here :math:`f` is a block:

    f = Chain([ActNorm(8), InvertibleLinear(8), Coupling(8, Spline(8), MultilayerPerceptron(4, (64, 64), 4 * Spline(8).size))])
    z, log_det = f(x)                        # x of shape (n, 8): z (n, 8), log_det (n,)
    x, minus_log_det = f.inverse(z)
    Inverted(f)                              # the same, the other way round

Two parts make up a block that moves coordinates by others: *which* set the move of which (:class:`Coupling`: a half that of the other;
:class:`MaskedAutoregressive`: those before it) and *how* one coordinate moves (:class:`Affine`, :class:`Spline`, and :class:`Mixture`,
whose inverse has no formula and is found by bisection). Images have shape ``(n, channels, height, width)``; their blocks are
:class:`Squeeze`, :class:`InvertibleLinear` over channels (a 1x1 convolution), :class:`Coupling` over channels, :class:`MultiScale`.

References:
    Dinh, Sohl-Dickstein, Bengio (2017). Density estimation using Real NVP. ICLR. https://arxiv.org/abs/1605.08803
    Kingma, Dhariwal (2018). Glow: generative flow with invertible 1x1 convolutions. NeurIPS. https://arxiv.org/abs/1807.03039
    Papamakarios, Pavlakou, Murray (2017). Masked autoregressive flow for density estimation. NeurIPS. https://arxiv.org/abs/1705.07057
    Kingma et al. (2016). Improved variational inference with inverse autoregressive flow. NeurIPS. https://arxiv.org/abs/1606.04934
    Durkan, Bekasov, Murray, Papamakarios (2019). Neural spline flows. NeurIPS. https://arxiv.org/abs/1906.04032
    Ho, Chen, Srinivas, Duan, Abbeel (2019). Flow++. ICML. https://arxiv.org/abs/1902.00275
"""

from pyrolvm_models.invertible.base import Block, Chain, Inverted
from pyrolvm_models.invertible.elements import Affine, Element, Mixture, Spline
from pyrolvm_models.invertible.images import MultiScale, Reshape, Squeeze
from pyrolvm_models.invertible.linear import ActNorm, InvertibleLinear, Logit, Permutation, initialize
from pyrolvm_models.invertible.moves import Coupling, MaskedAutoregressive
from pyrolvm_models.invertible.networks import ConvolutionalNetwork, MultilayerPerceptron

__all__ = [
    "ActNorm", "Affine", "Block", "Chain", "ConvolutionalNetwork", "Coupling", "Element", "Inverted", "InvertibleLinear", "Logit",
    "MaskedAutoregressive", "Mixture", "MultiScale", "MultilayerPerceptron", "Permutation", "Reshape", "Spline", "Squeeze",
    "initialize",
]  # fmt: skip
