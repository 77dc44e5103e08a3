"""Layers of neural networks: convolution, pooling, normalisation, attention, losses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from pyrolvm._capture.jax.rules.kinds import One, Rule
from pyrolvm._capture.jax.rules.pointwise import log_one_plus_exp

__all__ = ["RULES"]


def _per_dimension(value: Sequence[int] | int, count: int) -> tuple[int, ...]:
    values = (value,) if isinstance(value, int) else tuple(value)
    return values * count if len(values) == 1 else values


def _convolution(
    x: Array,
    weight: Array,
    bias: Array,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: Sequence[int],
    groups: int,
) -> Array:
    count = weight.ndim - 2
    single = x.ndim == count + 1
    x = x[None] if single else x
    stride, padding, dilation, extra = (_per_dimension(v, count) for v in (stride, padding, dilation, output_padding))
    if transposed:
        out = _transposed(x, weight, stride, padding, dilation, extra, groups)
    else:
        out = _correlated(x, weight, stride, [(p, p) for p in padding], dilation, groups)
    out = out if bias is None else out + bias.reshape((-1,) + (1,) * count)
    return out[0] if single else out


def _transposed(
    x: Array,
    weight: Array,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    extra: Sequence[int],
    groups: int,
) -> Array:
    """The adjoint of a convolution: the input is spread by the stride and convolved with the mirrored kernel."""
    count = weight.ndim - 2
    channels, per_group, *kernel = weight.shape
    mirrored = jnp.flip(weight, tuple(range(2, weight.ndim)))
    mirrored = mirrored.reshape(groups, channels // groups, per_group, *kernel)
    mirrored = jnp.swapaxes(mirrored, 1, 2).reshape(groups * per_group, channels // groups, *kernel)
    reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    pads = [(r - p, r - p + e) for r, p, e in zip(reach, padding, extra, strict=True)]
    spread = [(0, 0, 0)] * 2 + [(0, 0, s - 1) for s in stride]
    return _correlated(jax.lax.pad(x, jnp.zeros((), x.dtype), spread), mirrored, (1,) * count, pads, dilation, groups)


def _correlated(
    x: Array,
    weight: Array,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """A convolution as one product of matrices over shifted copies of its input.

    XLA's own runs in plain loops where it stands inside another loop on a CPU, as it does in a scan over steps: with its gradients it
    took 20 to 30 times as long (128 images of 16 channels, 4 x 4 and 14 x 14 pixels, one core).
    """
    kernel = weight.shape[2:]
    cut = [(0, 0, 0)] * 2 + [(low, high, 0) for low, high in pads]  # negative padding takes pixels away
    padded = jax.lax.pad(x, jnp.zeros((), x.dtype), cut)
    pairs = zip(padded.shape[2:], kernel, stride, dilation, strict=True)
    sizes = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in pairs]
    copies = []
    for offset in itertools.product(*(range(k) for k in kernel)):
        first = [o * d for o, d in zip(offset, dilation, strict=True)]
        last = [f + s * (m - 1) + 1 for f, s, m in zip(first, stride, sizes, strict=True)]
        copies.append(jax.lax.slice(padded, (0, 0, *first), (*x.shape[:2], *last), (1, 1, *stride)))
    columns = jnp.stack(copies, 2).reshape(len(x), groups, -1, len(copies), *sizes)
    kernels = weight.reshape(groups, weight.shape[0] // groups, -1, len(copies))
    out = jnp.einsum("ngck...,gock->ngo...", columns, kernels)
    return out.reshape(len(x), weight.shape[0], *sizes)


def _windows(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil: bool,
    fill: float,
) -> tuple[Array, Array]:
    """Every window of the last dimensions, its elements last, and for each element its place in the unpadded input."""
    count = len(kernel)
    shape = x.shape[-count:]
    counts, after = [], []
    for n, k, s, p, d in zip(shape, kernel, stride, padding, dilation, strict=True):
        span = d * (k - 1) + 1
        steps = -(-(n + 2 * p - span) // s) if ceil else (n + 2 * p - span) // s
        steps -= ceil and steps * s >= n + p  # a window may not start in the padding on the right
        counts.append(steps + 1)
        after.append(max(0, steps * s + span - n - p))
    pads = [(0, 0)] * (x.ndim - count) + list(zip(padding, after, strict=True))
    padded = jnp.pad(x, pads, constant_values=fill)
    place = jnp.zeros((), int)
    flat = jnp.zeros((), int)
    for i, (n, k, s, p, d) in enumerate(zip(shape, kernel, stride, padding, dilation, strict=True)):
        spots = jnp.arange(counts[i])[:, None] * s + jnp.arange(k)[None, :] * d
        form = [1] * (2 * count)
        form[i], form[count + i] = spots.shape
        flat = flat * padded.shape[x.ndim - count + i] + spots.reshape(form)
        place = place * n + (spots - p).reshape(form)
    batch = padded.reshape(*x.shape[:-count], -1)
    parts = batch[..., flat.reshape(*counts, -1)]
    return parts, place.reshape(*counts, -1)


def _max_pool(count: int) -> Rule:
    def rule(
        x: Array,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] | int = 0,
        dilation: Sequence[int] | int = 1,
        ceil_mode: bool = False,
    ) -> tuple[Array, Array]:
        kernel = _per_dimension(kernel, count)
        stride = _per_dimension(stride, count) if stride else kernel
        padding, dilation = _per_dimension(padding, count), _per_dimension(dilation, count)
        parts, place = _windows(x, kernel, stride, padding, dilation, ceil_mode, -jnp.inf)
        best = jnp.argmax(parts, axis=-1, keepdims=True)
        places = jnp.take_along_axis(jnp.broadcast_to(place, parts.shape), best, axis=-1)
        return jnp.take_along_axis(parts, best, axis=-1)[..., 0], places[..., 0]

    return rule


def _avg_pool(count: int) -> Rule:
    def rule(
        x: Array,
        kernel: Sequence[int],
        stride: Sequence[int] = (),
        padding: Sequence[int] | int = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Array:
        kernel = _per_dimension(kernel, count)
        stride = _per_dimension(stride, count) if stride else kernel
        padding = _per_dimension(padding, count)
        once = (1,) * count
        total = _windows(x, kernel, stride, padding, once, ceil_mode, 0)[0].sum(-1)
        if divisor_override is not None:
            return total / divisor_override
        ones, margin = jnp.ones(x.shape[-count:], x.dtype), padding
        if count_include_pad:
            ones, margin = jnp.pad(ones, [(p, p) for p in padding], constant_values=1), (0,) * count
        inside = _windows(ones, kernel, stride, margin, once, ceil_mode, 0)[0].sum(-1)
        return total / inside[tuple(slice(n) for n in total.shape[-count:])]

    return rule


def _adaptive(count: int, reduce: One = jnp.mean) -> Rule:
    """Pooling to a wanted size, one dimension after the other: means of means are means here, as the cells are boxes."""

    def rule(x: Array, size: Sequence[int]) -> Array:
        for i, cells in enumerate(_per_dimension(size, count)):
            dim = x.ndim - count + i
            n = x.shape[dim]
            edges = [(j * n // cells, -(-(j + 1) * n // cells)) for j in range(cells)]
            x = jnp.stack([reduce(jax.lax.slice_in_dim(x, a, b, axis=dim), axis=dim) for a, b in edges], axis=dim)
        return x

    return rule


def _standardised(x: Array, dims: tuple[int, ...], eps: float) -> tuple[Array, Array, Array]:
    """The values to mean 0 and variance 1 along dimensions, with the mean and the inverse deviation."""
    mean = jnp.mean(x, axis=dims, keepdims=True)
    scale = jax.lax.rsqrt(jnp.mean((x - mean) ** 2, axis=dims, keepdims=True) + eps)
    return (x - mean) * scale, mean, scale


def _affine(x: Array, weight: Array | None, bias: Array | None) -> Array:
    x = x if weight is None else x * weight
    return x if bias is None else x + bias


def _layer_norm(
    x: Array, shape: Sequence[int], weight: Array | None, bias: Array | None, eps: float
) -> tuple[Array, Array, Array]:
    value, mean, scale = _standardised(x, tuple(range(-len(shape), 0)), eps)
    return _affine(value, weight, bias), mean, scale


def _group_norm(
    x: Array, weight: Array | None, bias: Array | None, n: int, c: int, rest: int, groups: int, eps: float
) -> tuple[Array, ...]:
    value, mean, scale = _standardised(x.reshape(n, groups, -1), (-1,), eps)
    form = (1, c) + (1,) * (x.ndim - 2)
    parts = [None if part is None else part.reshape(form) for part in (weight, bias)]
    return _affine(value.reshape(x.shape), *parts), mean[..., 0], scale[..., 0]


def _batch_norm(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array | None,
    variance: Array | None,
    training: bool,
    eps: float,
) -> tuple[Array, ...]:
    """The value, and the mean and inverse deviation of the batch, which are empty where running ones were used."""
    dims, form = (0, *range(2, x.ndim)), (1, -1) + (1,) * (x.ndim - 2)
    parts = [None if part is None else part.reshape(form) for part in (weight, bias)]
    if training or mean is None or variance is None:
        value, centre, scale = _standardised(x, dims, eps)
        return _affine(value, *parts), centre.reshape(-1), scale.reshape(-1)
    value = (x - mean.reshape(form)) * jax.lax.rsqrt(variance.reshape(form) + eps)
    return _affine(value, *parts), jnp.zeros((0,)), jnp.zeros((0,))


def _batch_norm_functional(
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    variance: Array,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Array, ...]:
    """As above, with the running mean and variance after this batch."""
    out = _batch_norm(x, weight, bias, mean, variance, training, eps)
    if not training:
        return (*out, mean, variance)
    dims = (0, *range(2, x.ndim))
    fresh = jnp.mean(x, axis=dims), jnp.var(x, axis=dims, ddof=1)
    return (*out, *((1 - momentum) * old + momentum * new for old, new in zip((mean, variance), fresh, strict=True)))


def _batch_norm_no_stats(
    x: Array, weight: Array | None, bias: Array | None, training: bool, momentum: float, eps: float
) -> tuple[Array, ...]:
    return _batch_norm(x, weight, bias, None, None, True, eps)


def _attention(
    query: Array, key: Array, value: Array, causal: bool = False, mask: Array | None = None, scale: float | None = None
) -> tuple[Array, Array]:
    """The weighted values, and the logarithm of the weights' sum."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * query @ jnp.swapaxes(key, -1, -2)
    if causal:
        scores = jnp.where(jnp.tril(jnp.ones(scores.shape[-2:], bool)), scores, -jnp.inf)
    if mask is not None:
        scores = jnp.where(mask, scores, -jnp.inf) if mask.dtype == bool else scores + mask
    return jax.nn.softmax(scores, axis=-1) @ value, jax.nn.logsumexp(scores, axis=-1)


def _reduced(loss: Array, reduction: int) -> Array:
    """Reductions are numbered: 0 none, 1 mean, 2 sum."""
    return (loss, jnp.mean(loss), jnp.sum(loss))[reduction] if reduction else loss


def _cross_entropy(x: Array, target: Array, weight: Array | None = None, reduction: int = 1) -> Array:
    logs = [jnp.where(p <= jnp.exp(-100.0), -100.0, jnp.log(p)) for p in (x, 1 - x)]
    loss = -(target * logs[0] + (1 - target) * logs[1])
    return _reduced(loss if weight is None else loss * weight, reduction)


def _cross_entropy_logits(
    x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None, reduction: int = 1
) -> Array:
    by = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * x + by * log_one_plus_exp(-x)
    return _reduced(loss if weight is None else loss * weight, reduction)


def _nll(x: Array, target: Array, weight: Array, reduction: int, ignore: int) -> tuple[Array, Array]:
    kept = target != ignore
    index = jnp.where(kept, target, 0)
    dim = 0 if x.ndim == 1 else 1
    picked = jnp.take_along_axis(x, jnp.expand_dims(index, dim), axis=dim).squeeze(dim)
    weights = kept.astype(x.dtype) if weight is None else jnp.where(kept, weight[index], 0)
    loss, total = -picked * weights, weights.sum()
    return (loss, loss.sum() / total, loss.sum())[reduction], total


def _huber(x: Array, y: Array, reduction: int = 1, delta: float = 1.0) -> Array:
    far = jnp.abs(x - y)
    return _reduced(jnp.where(far <= delta, 0.5 * far * far, delta * (far - 0.5 * delta)), reduction)


def _smooth_l1(x: Array, y: Array, reduction: int = 1, beta: float = 1.0) -> Array:
    far = jnp.abs(x - y)
    return _reduced(jnp.where(far < beta, 0.5 * far * far / (beta or 1.0), far - 0.5 * beta), reduction)


def _nearest(x: Array, size: Sequence[int] | None = None, scales: Sequence[float] = (), *_: object) -> Array:
    count = x.ndim - 2
    wanted = size or [int(n * s) for n, s in zip(x.shape[2:], scales, strict=True)]
    for i in range(count):
        n, m = x.shape[2 + i], wanted[i]
        x = jnp.take(x, jnp.minimum(jnp.arange(m) * n // m, n - 1), axis=2 + i)
    return x


def _native_norm(rule: Rule) -> Rule:
    return lambda x, weight, bias, mean, variance, training, momentum, eps: rule(
        x, weight, bias, mean, variance, training, eps
    )


CONVOLUTION: dict[str, Rule] = {
    "convolution": _convolution,
    "max_pool1d_with_indices": _max_pool(1),
    "max_pool2d_with_indices": _max_pool(2),
    "max_pool3d_with_indices": _max_pool(3),
    "avg_pool1d": _avg_pool(1),
    "avg_pool2d": _avg_pool(2),
    "avg_pool3d": _avg_pool(3),
    "adaptive_avg_pool1d": _adaptive(1),
    "_adaptive_avg_pool2d": _adaptive(2),
    "_adaptive_avg_pool3d": _adaptive(3),
    "upsample_nearest1d": _nearest,
    "upsample_nearest2d": _nearest,
    "upsample_nearest3d": _nearest,
}

NORMALISATION: dict[str, Rule] = {
    "_softmax": lambda x, dim, half_to_float=False: jax.nn.softmax(x, axis=dim) if x.ndim else jnp.ones_like(x),
    "_log_softmax": lambda x, dim, half_to_float=False: (
        jax.nn.log_softmax(x, axis=dim) if x.ndim else jnp.zeros_like(x)
    ),
    "_safe_softmax": lambda x, dim, dtype=None: jnp.where(
        jnp.all(jnp.isneginf(x), axis=dim, keepdims=True), 0, jax.nn.softmax(x, axis=dim)
    ),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _native_norm(_batch_norm),
    "_native_batch_norm_legit": _native_norm(_batch_norm),
    "_native_batch_norm_legit.no_stats": _batch_norm_no_stats,
    "_native_batch_norm_legit_no_training": lambda x, weight, bias, mean, variance, momentum, eps: _batch_norm(
        x, weight, bias, mean, variance, False, eps
    ),
    "_native_batch_norm_legit_functional": _batch_norm_functional,
}

ATTENTION: dict[str, Rule] = {
    "_scaled_dot_product_attention_math": lambda q, k, v, mask=None, p=0.0, causal=False, dropout=None, scale=None, **_: (
        _attention(q, k, v, causal, mask, scale)
    ),
    "_scaled_dot_product_flash_attention_for_cpu": lambda q, k, v, p=0.0, causal=False, attn_mask=None, scale=None: (
        _attention(q, k, v, causal, attn_mask, scale)
    ),
}

LOSSES: dict[str, Rule] = {
    "binary_cross_entropy": _cross_entropy,
    "binary_cross_entropy_with_logits": _cross_entropy_logits,
    "nll_loss_forward": _nll,
    "nll_loss2d_forward": _nll,
    "mse_loss": lambda x, y, reduction=1: _reduced((x - y) ** 2, reduction),
    "huber_loss": _huber,
    "smooth_l1_loss": _smooth_l1,
}

RULES: dict[str, Rule] = {**CONVOLUTION, **NORMALISATION, **ATTENTION, **LOSSES}
