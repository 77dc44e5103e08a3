"""Image and text data: what is read is what was published, from a local folder or over a (loopback) network."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import os
import struct
import threading
import zipfile
from functools import partial

import numpy as np
import pytest
import torch

import pyrolvm as lvm
from pyrolvm_models import datasets

real = pytest.mark.skipif("PYROLVM_DATA" not in os.environ, reason="PYROLVM_DATA names no folder with the real files")


def _idx(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _sum(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A data set in MNIST's format, with its checksums, in a folder."""
    folder = tmp_path / "source" / "mnist"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": generator.integers(0, 256, (12, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": np.arange(12, dtype=np.uint8) % 10,
        "t10k-images-idx3-ubyte.gz": generator.integers(0, 256, (5, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": np.arange(5, dtype=np.uint8),
    }
    for name, array in arrays.items():
        (folder / name).write_bytes(gzip.compress(_idx(array)))
        monkeypatch.setitem(datasets._CHECKSUMS, name, _sum(_idx(array)))
    return folder, arrays


def test_digits_are_the_split_of_the_docs():
    images = datasets.digits()
    assert images.train.shape == (1347, 64)
    assert images.test.shape == (450, 64)
    assert int(images.train.max()) == images.levels - 1
    assert images.intensities("test").max() == 1.0
    noisy = images.dequantized("train", seed=3)
    assert ((noisy * 17).floor() == images.train).float().mean() > 0.9999
    assert torch.equal(noisy, images.dequantized("train", seed=3))
    assert not torch.equal(noisy, images.dequantized("train", seed=4))
    drawn = torch.stack([images.binarized("test", seed=s)[:50] for s in range(200)]).mean(0)
    assert (drawn - images.intensities("test")[:50]).abs().max() < 5 * 0.5 / 200**0.5


def test_digits_have_no_validation_part_and_say_so():
    with pytest.raises(lvm.ArgumentError, match=r"no part 'valid'\. Fix: use one of 'train', 'test'"):
        datasets.digits().part("valid")


def test_files_in_a_local_folder_are_read(small_mnist, monkeypatch):
    folder, arrays = small_mnist
    monkeypatch.setenv("PYROLVM_DATA", str(folder.parent))
    images = datasets.mnist(valid=2)
    np.testing.assert_array_equal(images.train, arrays["train-images-idx3-ubyte.gz"][:10].reshape(10, 784))
    np.testing.assert_array_equal(images.valid, arrays["train-images-idx3-ubyte.gz"][10:].reshape(2, 784))
    np.testing.assert_array_equal(images.test_labels, arrays["t10k-labels-idx1-ubyte.gz"])
    assert images.subset(train=3, test=2).train_labels.tolist() == [0, 1, 2]


def test_files_are_downloaded_once(small_mnist, tmp_path, monkeypatch):
    folder, arrays = small_mnist
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        monkeypatch.delenv("PYROLVM_DATA", raising=False)
        monkeypatch.setattr(datasets, "_MNIST", f"http://127.0.0.1:{server.server_port}/")
        monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / "cache" / name)
        first, second = datasets.mnist(valid=0), datasets.mnist(valid=0)
    finally:
        server.shutdown()
        server.server_close()
    assert len(asked) == 4
    assert first.valid is None
    assert torch.equal(first.train, second.train)
    np.testing.assert_array_equal(first.train, arrays["train-images-idx3-ubyte.gz"].reshape(12, 784))


def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("PYROLVM_DATA", raising=False)
    monkeypatch.setattr(datasets, "_MNIST", "http://127.0.0.1:9/")
    monkeypatch.setattr("pooch.os_cache", lambda name: tmp_path / name)
    with pytest.raises(lvm.DataError, match=r"cannot be downloaded .*Fix: .*PYROLVM_DATA"):
        datasets.mnist()


def test_a_missing_local_file_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PYROLVM_DATA", str(tmp_path))
    with pytest.raises(lvm.DataError, match=r"chardata\.mat does not exist.*Fix: "):
        datasets.omniglot()


@pytest.mark.parametrize("damage", ["flip", "truncate"])
def test_damaged_files_are_refused(small_mnist, monkeypatch, damage):
    folder, arrays = small_mnist
    monkeypatch.setenv("PYROLVM_DATA", str(folder.parent))
    name = "t10k-images-idx3-ubyte.gz"
    if damage == "flip":
        (folder / name).write_bytes(gzip.compress(_idx(arrays[name] ^ 1)))
    else:
        (folder / name).write_bytes((folder / name).read_bytes()[:-100])
    with pytest.raises(lvm.DataError, match=rf"{name} is not what was published.*Fix: "):
        datasets.mnist(valid=0)


def test_binary_images_are_the_same_from_text_and_from_bits(tmp_path, monkeypatch):
    generator = np.random.default_rng(1)
    parts = {split: generator.integers(0, 2, (4, 784), dtype=np.uint8) for split in ("train", "valid", "test")}
    text, bits = tmp_path / "text" / "binarized_mnist", tmp_path / "bits" / "binarized_mnist"
    text.mkdir(parents=True)
    bits.mkdir(parents=True)
    for split, images in parts.items():
        lines = "".join(" ".join(map(str, image)) + "\n" for image in images.tolist()).encode()
        (text / f"binarized_mnist_{split}.amat").write_bytes(lines)
        monkeypatch.setitem(datasets._CHECKSUMS, f"binarized_mnist_{split}.amat", _sum(lines))
    np.savez(bits / "binarized_mnist.npz", **{split: np.packbits(images, axis=1) for split, images in parts.items()})
    for folder in (text, bits):
        monkeypatch.setenv("PYROLVM_DATA", str(folder.parent))
        found = datasets.binarized_mnist()
        assert found.levels == 2
        for split, images in parts.items():
            np.testing.assert_array_equal(found.part(split), images)


def test_omniglot_images_stand_upright(tmp_path, monkeypatch):
    from scipy.io import savemat

    generator = np.random.default_rng(2)
    upright = generator.integers(0, 2, (6, 28, 28)).astype(float)
    columns = upright.transpose(0, 2, 1).reshape(6, 784).T
    labels = np.eye(50)[:, [3, 1, 4, 1, 5, 9]]
    folder = tmp_path / "omniglot"
    folder.mkdir()
    savemat(folder / "chardata.mat", {"data": columns, "testdata": columns, "target": labels, "testtarget": labels})
    monkeypatch.setitem(datasets._CHECKSUMS, "chardata.mat", _sum((folder / "chardata.mat").read_bytes()))
    monkeypatch.setenv("PYROLVM_DATA", str(tmp_path))
    images = datasets.omniglot(valid=2)
    np.testing.assert_array_equal(images.train.reshape(4, 28, 28), upright[:4] * 255)
    assert images.valid_labels.tolist() == [5, 9]


def test_text_is_coded_and_decoded(tmp_path, monkeypatch):
    characters = b" anarchism originated as a term of abuse first used against early working class radicals"
    (tmp_path / "text8").mkdir()
    with zipfile.ZipFile(tmp_path / "text8" / "text8.zip", "w") as archive:
        archive.writestr("text8", characters)
    monkeypatch.setitem(datasets._CHECKSUMS, "text8.zip", _sum(characters))
    monkeypatch.setenv("PYROLVM_DATA", str(tmp_path))
    text = datasets.text8()
    assert text.decode(torch.cat([text.train, text.valid, text.test])) == characters.decode()
    assert len(text.valid) == pytest.approx(0.05 * len(characters), abs=1)


@real
def test_real_mnist_has_its_sizes_and_classes():
    images = datasets.mnist()
    assert (len(images.train), len(images.valid), len(images.test)) == (50_000, 10_000, 10_000)
    assert images.test_labels.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@real
def test_real_binarized_mnist_has_its_sizes():
    images = datasets.binarized_mnist()
    assert (len(images.train), len(images.valid), len(images.test)) == (50_000, 10_000, 10_000)
    assert set(images.train.unique().tolist()) == {0, 1}
