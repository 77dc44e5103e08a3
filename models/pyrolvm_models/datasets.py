"""Images and text for deep models: digits from scikit-learn; MNIST, Omniglot and text8 from their public sources.

What scikit-learn does not ship is downloaded once, into the user's cache, by https, and its content is checked against a known
checksum whenever it is read. Where the environment variable ``PYROLVM_DATA`` names a folder, files are read from there and
nothing is downloaded; ``PYROLVM_DATA/mnist``, ``binarized_mnist``, ``omniglot`` and ``text8`` hold the files under the names of
their sources.
"""

from __future__ import annotations

import gzip
import io
import zipfile
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import pyrolvm as lvm
from pyrolvm_models import _data
from pyrolvm_models._files import damaged, fetch, local, verify

__all__ = ["ALPHABET", "Images", "Text", "binarized_mnist", "digits", "mnist", "omniglot", "text8"]

Bytes = NDArray[np.uint8]

ALPHABET = " abcdefghijklmnopqrstuvwxyz"
"""The characters of ``text8``, in the order of their codes."""

_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_BINARIZED = "http://www.cs.toronto.edu/~larocheh/public/datasets/binarized_mnist/"
_OMNIGLOT = "https://raw.githubusercontent.com/yburda/iwae/master/datasets/OMNIGLOT/"
_TEXT8 = "https://mattmahoney.net/dc/"

# md5 of what the files hold when unpacked, which does not change when somebody packs them again.
_CHECKSUMS = {
    "train-images-idx3-ubyte.gz": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte.gz": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte.gz": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte.gz": "27ae3e4e09519cfbb04c329615203637",
    "binarized_mnist_train.amat": "db28b1a6ae0fe70cbd3da91acf46e477",
    "binarized_mnist_valid.amat": "bf37822a04e94123630de6a7dfd9c9ef",
    "binarized_mnist_test.amat": "14e41ae11040adba6ab8cb291eda0dd8",
    "chardata.mat": "21ecaf34373511aa7691cf2e0802aa3d",
    "text8.zip": "3bea1919949baf155f99411df5fada7e",
}


@dataclass(frozen=True)
class Images:
    """Grey images in a training, a validation and a test part.

    Attributes:
        name: What they are, with how they were made binary where they are.
        train: Grey levels ``0, ..., levels - 1``, shape ``(n, height * width)``, uint8, row by row.
        valid: The same for validation, or ``None`` where the source has no such part.
        test: The same for the test.
        train_labels: Classes of the training images, shape ``(n,)``, int64; ``None`` where the source has none.
        valid_labels: Of the validation images.
        test_labels: Of the test images.
        height: Pixels from top to bottom.
        width: Pixels from left to right.
        levels: How many grey levels there are; 2 for binary images.
    """

    name: str
    train: Tensor
    valid: Tensor | None
    test: Tensor
    train_labels: Tensor | None
    valid_labels: Tensor | None
    test_labels: Tensor | None
    height: int
    width: int
    levels: int

    def part(self, split: str) -> Tensor:
        """Grey levels of ``"train"``, ``"valid"`` or ``"test"``, shape ``(n, height * width)``, uint8.

        Raises:
            ArgumentError: There is no such part.
        """
        found = {"train": self.train, "valid": self.valid, "test": self.test}.get(split)
        if found is None:
            have = ", ".join(repr(s) for s in ("train", "valid", "test") if getattr(self, s) is not None)
            raise lvm.ArgumentError(f"{self.name} has no part {split!r}. Fix: use one of {have}.")
        return found

    def intensities(self, split: str = "train") -> Tensor:
        """Levels as fractions of the highest one, in [0, 1], shape ``(n, height * width)``, float32."""
        return self.part(split).to(torch.float32) / (self.levels - 1)

    def dequantized(self, split: str = "train", seed: int = 0) -> Tensor:
        """Levels with uniform noise of one level's width added, in (0, 1), shape ``(n, height * width)``, float32.

        A density of these numbers bounds a probability of the levels from below, so that bits per dimension are
        ``(-log p / pixels + log levels) / log 2``.

        References:
            Theis, van den Oord and Bethge, A note on the evaluation of generative models, https://arxiv.org/abs/1511.01844
        """
        levels = self.part(split).to(torch.float64)
        noise = torch.rand(levels.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        tiny = torch.finfo(torch.float32).eps
        return ((levels + noise) / self.levels).clamp(tiny, 1 - tiny).to(torch.float32)

    def binarized(self, split: str = "train", seed: int = 0) -> Tensor:
        """One draw of each pixel, white with probability its intensity, shape ``(n, height * width)``, float32 of 0 and 1."""
        probability = self.intensities(split)
        generator = torch.Generator().manual_seed(seed)
        return torch.bernoulli(probability, generator=generator)

    def subset(self, train: int | None = None, test: int | None = None) -> Images:
        """The first images of the parts: ``train`` of training, ``test`` of validation and test.

        Raises:
            ArgumentError: A number is no positive integer, or above what there is.
        """
        first = None if train is None else _data.check_count(self.name, "train", train, len(self.train), "data set")
        last = None if test is None else _data.check_count(self.name, "test", test, len(self.test), "data set")
        cut: dict[str, Any] = {}
        for part, count in (("train", first), ("valid", last), ("test", last)):
            for field in (part, f"{part}_labels"):
                value = getattr(self, field)
                cut[field] = value if value is None or count is None else value[:count]
        return replace(self, **cut)


@dataclass(frozen=True)
class Text:
    """Characters as codes.

    Attributes:
        train: Codes, shape ``(n,)``, uint8.
        valid: Codes for validation.
        test: Codes for the test.
        alphabet: The character of each code.
    """

    train: Tensor
    valid: Tensor
    test: Tensor
    alphabet: str = ALPHABET

    def decode(self, codes: Tensor) -> str:
        """The characters of codes, shape ``(n,)``."""
        return "".join(self.alphabet[int(code)] for code in codes)


def digits(seed: int = 0) -> Images:
    """1,797 handwritten digits of 8 x 8 pixels with 17 grey levels, which ship with scikit-learn: 75% to train, 25% to test.

    Args:
        seed: Of the split, by scikit-learn's ``train_test_split``; 0 is the split of the measured figures in the docs.

    References:
        Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49
    """
    from sklearn.model_selection import train_test_split

    table = _data.load("digits")
    train, test, train_labels, test_labels = train_test_split(table.x, table.target, test_size=0.25, random_state=seed)
    return Images(
        name="digits", train=_levels(train), valid=None, test=_levels(test), train_labels=torch.tensor(train_labels),
        valid_labels=None, test_labels=torch.tensor(test_labels), height=8, width=8, levels=17,
    )  # fmt: skip


def mnist(valid: int = 10_000) -> Images:
    """MNIST: 70,000 digits of 28 x 28 pixels with 256 grey levels; 10,000 of them are the test.

    For dynamic binarisation draw each pixel anew, white with probability its intensity, whenever an image is used.

    Args:
        valid: How many of the 60,000 training images, from the end, are the validation part; 0 for none.

    Raises:
        DataError: The files are not there and cannot be downloaded, or they are not what was published.

    References:
        LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition,
        https://doi.org/10.1109/5.726791
    """
    if isinstance(valid, bool) or not isinstance(valid, int) or not 0 <= valid < 60_000:
        raise lvm.ArgumentError(f"mnist(valid={valid!r}) is out of range. Fix: give an integer from 0 to 59,999.")
    images, labels = (_idx("mnist", f"train-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    test, test_labels = (_idx("mnist", f"t10k-{kind}-ubyte.gz") for kind in ("images-idx3", "labels-idx1"))
    first = len(images) - valid
    return Images(
        name="mnist", train=_levels(images[:first]), valid=_levels(images[first:]) if valid else None, test=_levels(test),
        train_labels=_classes(labels[:first]), valid_labels=_classes(labels[first:]) if valid else None,
        test_labels=_classes(test_labels), height=28, width=28, levels=256,
    )  # fmt: skip


def binarized_mnist() -> Images:
    """MNIST made binary once and for all, in the split that published nats of this data set use: 50,000, 10,000, 10,000.

    The source has no labels. Its nats are not comparable with those of dynamic binarisation.

    Raises:
        DataError: The files are not there and cannot be downloaded, or they are not what was published.

    References:
        Larochelle and Murray, The neural autoregressive distribution estimator, https://proceedings.mlr.press/v15/larochelle11a.html
    """
    parts = {split: _levels(_amat(split)) for split in ("train", "valid", "test")}
    return Images(
        name="static binarized mnist", **parts, train_labels=None, valid_labels=None, test_labels=None,
        height=28, width=28, levels=2,
    )  # fmt: skip


def omniglot(valid: int = 1_345) -> Images:
    """Omniglot at 28 x 28 pixels, as importance weighted autoencoders were measured on it: 24,345 to train, 8,070 to test.

    Labels are alphabets, of which there are 50. Grey levels are 256; binarise dynamically, as for :func:`mnist`.

    Args:
        valid: How many of the training images, from the end, are the validation part; 0 for none.

    Raises:
        DataError: The file is not there and cannot be downloaded, or it is not what was published.

    References:
        Lake, Salakhutdinov and Tenenbaum, Human-level concept learning, https://doi.org/10.1126/science.aab3050
        Burda, Grosse and Salakhutdinov, Importance Weighted Autoencoders, https://arxiv.org/abs/1509.00519
    """
    if isinstance(valid, bool) or not isinstance(valid, int) or not 0 <= valid < 24_345:
        raise lvm.ArgumentError(f"omniglot(valid={valid!r}) is out of range. Fix: give an integer from 0 to 24,344.")
    from scipy.io import loadmat

    content = fetch("omniglot", "chardata.mat", _OMNIGLOT)
    verify("chardata.mat", content, _CHECKSUMS["chardata.mat"])
    arrays = loadmat(io.BytesIO(content))

    def levels(name: str) -> Bytes:
        # The source stores each image column by column.
        pixels = np.asarray(arrays[name]).T.reshape(-1, 28, 28).transpose(0, 2, 1)
        return np.rint(pixels * 255).astype(np.uint8)

    images, test = levels("data"), levels("testdata")
    labels, test_labels = (np.asarray(arrays[name]).argmax(axis=0) for name in ("target", "testtarget"))
    first = len(images) - valid
    return Images(
        name="omniglot", train=_levels(images[:first]), valid=_levels(images[first:]) if valid else None, test=_levels(test),
        train_labels=_classes(labels[:first]), valid_labels=_classes(labels[first:]) if valid else None,
        test_labels=_classes(test_labels), height=28, width=28, levels=256,
    )  # fmt: skip


def text8() -> Text:
    """The first 100 million characters of cleaned English Wikipedia: 27 characters; 90%, 5% and 5% to train, validate, test.

    Raises:
        DataError: The file is not there and cannot be downloaded, or it is not what was published.

    References:
        Mahoney, About the test data, https://mattmahoney.net/dc/textdata.html
    """
    content = fetch("text8", "text8.zip", _TEXT8)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            characters = archive.read("text8")
    except (zipfile.BadZipFile, KeyError) as error:
        raise damaged("text8.zip", str(error)) from None
    verify("text8.zip", characters, _CHECKSUMS["text8.zip"])
    codes = np.frombuffer(characters, dtype=np.uint8).copy()
    codes = np.where(codes == ord(" "), 0, codes - ord("a") + 1).astype(np.uint8)
    first, second = int(0.9 * len(codes)), int(0.95 * len(codes))
    train, valid, test = (torch.from_numpy(part) for part in np.split(codes, [first, second]))
    return Text(train=train, valid=valid, test=test)


def _levels(images: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.reshape(len(images), -1), dtype=np.uint8))


def _classes(labels: NDArray[Any]) -> Tensor:
    return torch.from_numpy(labels.astype(np.int64))


def _idx(folder: str, name: str) -> Bytes:
    """An array in the format of the MNIST files: a magic number whose last byte is the rank, the sizes, the bytes."""
    try:
        content = gzip.decompress(fetch(folder, name, _MNIST))
    except (OSError, EOFError) as error:
        raise damaged(name, str(error)) from None
    verify(name, content, _CHECKSUMS[name])
    rank = content[3]
    shape = np.frombuffer(content, dtype=">u4", count=rank, offset=4)
    return np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * rank).reshape(*shape).copy()


def _amat(split: str) -> Bytes:
    """Binary images from text with one image a line; or, from a local folder, from bits in one ``npz`` file."""
    name = f"binarized_mnist_{split}.amat"
    bits_file = local("binarized_mnist", "binarized_mnist.npz")
    if bits_file is not None and bits_file.is_file():
        with np.load(bits_file, allow_pickle=False) as bits:
            images = np.unpackbits(bits[split], axis=1)
        verify(name, _as_text(images), _CHECKSUMS[name])
        return images
    content = fetch("binarized_mnist", name, _BINARIZED)
    verify(name, content, _CHECKSUMS[name])
    return (np.frombuffer(content, dtype=np.uint8)[::2] - ord("0")).reshape(-1, 784)


def _as_text(images: Bytes) -> bytes:
    """The images as the source writes them: digits with spaces between, a line for each image."""
    text = np.empty((len(images), 2 * images.shape[1]), dtype=np.uint8)
    text[:, ::2] = images + ord("0")
    text[:, 1::2] = ord(" ")
    text[:, -1] = ord("\n")
    return text.tobytes()
