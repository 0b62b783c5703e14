"""Writes files with python/gramscope_activations.py into the directory that is named, and tries what it must refuse."""

import contextlib
import errno
import json
import os
import resource
import sys
import warnings
from unittest import mock

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "python"))

from gramscope_activations import ActivationFile, torch_layers


def values(layer, shape, dtype=np.float32):
    """What tests/python_activations.rs computes, too."""
    numbers = np.arange(np.prod(shape), dtype=np.int64)
    return (((numbers * (37 + layer)) % 101 - 50) / 8).astype(dtype).reshape(shape)


def batches(file, layers, sizes):
    start = 0
    for size in sizes:
        for name, array in layers:
            file.append(name, array[start : start + size])
        start += size


def streamed(directory):
    """In batches and at once; in other orders of bytes and memory than the file's, which values do not show."""
    layers = [("z", values(0, (10, 4, 2))), ("a", values(1, (10, 3))), ("half", values(2, (10, 5), np.float16))]
    for name, sizes in [("streamed", [4, 4, 0, 2]), ("whole", [10])]:
        with ActivationFile(os.path.join(directory, f"{name}.safetensors"), 10) as file:
            batches(file, layers, sizes)
    turned = [(name, np.asfortranarray(array.astype(array.dtype.newbyteorder(">")))) for name, array in layers]
    with ActivationFile(os.path.join(directory, "turned.safetensors"), 10) as file:
        batches(file, turned, [7, 3])
    with ActivationFile(os.path.join(directory, "named.safetensors"), 10, layers=["a", "half", "z"]) as file:
        batches(file, layers, [10])


def refused(directory, part, write, error=ValueError):
    before = sorted(os.listdir(directory))
    try:
        write(os.path.join(directory, "refused.safetensors"))
    except error as reason:
        assert part in str(reason), reason
    else:
        raise AssertionError(f"not refused: {part}")
    assert sorted(os.listdir(directory)) == before, "something was left"


def misused(directory):
    def write(examples, *appended, **options):
        def to(path):
            with ActivationFile(path, examples, **options) as file:
                for name, array in appended:
                    file.append(name, array)

        return to

    two, three = np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)
    refused(directory, "layer a has 2 of 5 examples", write(5, ("a", two)))
    refused(directory, "layer b has 2 of 4 examples", write(4, ("a", two), ("b", two), ("a", two)))
    refused(directory, "more than 4 examples", write(4, ("a", two), ("a", three)))
    refused(directory, "not in the first batch", write(4, ("a", two), ("a", two), ("b", two)))
    refused(directory, "before layer b", write(6, ("a", two), ("b", two), ("a", two), ("a", two)))
    refused(directory, "layer b has 3 examples in a batch where layer a has 2", write(6, ("a", two), ("b", three)))
    refused(directory, "F32[2] an example, and was F32[3]", write(4, ("a", two), ("a", two[:, :2])))
    refused(directory, "F64[3] an example, and was F32[3]", write(4, ("a", two), ("a", two.astype(np.float64))))
    refused(directory, "layer a: values of type int64", write(2, ("a", np.zeros((2, 3), np.int64))), TypeError)
    refused(directory, "layer a: a single number", write(2, ("a", np.float32(1))))
    refused(directory, "no features", write(2, ("a", two[:, :0])))
    refused(directory, "not ('a', 'b')", write(2, (("a", "b"), two)), TypeError)
    refused(directory, "no name for a layer", write(2, ("__metadata__", two)))
    refused(directory, "no room", write(2, *((f"{i}" * 1000, two) for i in range(1000))))
    refused(directory, "none of the layers that were named", write(2, ("a", two), layers=["b"]))
    refused(directory, "layer b was named and not added", write(2, ("a", two), layers=["a", "b"]))
    refused(directory, "no layer", write(2))
    refused(directory, "at least 1", write(0))
    refused(directory, "integer", write(2.5, ("a", two)), TypeError)
    refused(directory, "No such file", lambda path: write(2, ("a", two))(path + "/a"), OSError)
    refused(directory, "is no file", lambda _: write(2, ("a", two))(directory), OSError)
    refused(directory, "named twice", write(2, ("a", two), layers=["a", "b", "a"]))
    refused(directory, "not 'ab'", write(2, ("a", two), layers="ab"), TypeError)

    def closed(path):
        file = ActivationFile(path, 2)
        file.discard()
        file.close()
        file.append("a", two)

    refused(directory, "is closed", closed)


def after_a_refusal(directory):
    """What is refused changes nothing: neither a layer, nor a batch, nor an example too many."""
    path = os.path.join(directory, "again.safetensors")
    two, three = np.ones((2, 3), np.float32), np.ones((3, 3), np.float32)
    with ActivationFile(path, 4) as file:
        file.append("a", two)
        for name, array in [("b", three), ("b", two[:, :0]), ("a", three)]:
            try:
                file.append(name, array)
            except ValueError:
                continue
            raise AssertionError(f"not refused: {name}, {array.shape}")
        file.append("a", two)
    names, found = layers_of(path)
    assert names == ["a"] and found["a"] == ("F32", [4, 3], np.ones((4, 3), "<f4").tobytes())
    os.remove(path)


def failing_disks(directory):
    """A disk that is full when a layer comes, or only says so at the end; a file system that knows no fsync is no such disk."""
    large = np.zeros((2, 1 << 20), np.float32)

    def write(path):
        with ActivationFile(path, 2) as file:
            file.append("a", large)

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    refused(directory, "large", write, OSError)
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for number in [errno.EIO, errno.ENOSPC, errno.EINVAL]:
        with mock.patch("os.fsync", side_effect=OSError(number, os.strerror(number))):
            if number == errno.EINVAL:
                write(os.path.join(directory, "unflushed.safetensors"))
            else:
                refused(directory, os.strerror(number), write, OSError)
    os.remove(os.path.join(directory, "unflushed.safetensors"))


def links(directory):
    """A link stays one."""
    place, link = os.path.join(directory, "place"), os.path.join(directory, "link.safetensors")
    os.mkdir(place)
    os.symlink(os.path.join("place", "file.safetensors"), link)
    with ActivationFile(link, 2) as file:
        file.append("a", np.ones((2, 3), np.float32))
    assert os.path.islink(link) and os.listdir(place) == ["file.safetensors"] and layers_of(link)[0] == ["a"]


def two_at_once(directory):
    """Files of one name do not disturb each other; the last to be closed stays."""
    path = os.path.join(directory, "twice.safetensors")
    first, second = ActivationFile(path, 4), ActivationFile(path, 4)
    two = np.zeros((2, 3), np.float32)
    for _ in range(2):
        first.append("first", two)
        second.append("second", two)
    for file, name in [(first, "first"), (second, "second")]:
        file.close()
        assert layers_of(path)[0] == [name]
    assert not [name for name in os.listdir(directory) if name.endswith(".part")]
    os.remove(path)


def layers_of(path):
    """The names of the layers, and each layer's type, shape and bytes."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = file.read()
    names = json.loads(header.pop("__metadata__")["layers"])
    found = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        found[name] = (entry["dtype"], entry["shape"], data[begin:end])
    return names, found


def of_torch(directory):
    """Every layer is what its module put out in the same batches: called twice, in place, in bfloat16, in tuples, with weights that
    are computed, and not called at all."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.utils.parametrizations.weight_norm(torch.nn.Linear(5, 4))
            self.relu = torch.nn.ReLU(inplace=True)
            self.attention = torch.nn.MultiheadAttention(4, 2, batch_first=True)
            self.second = torch.nn.Linear(4, 3).to(torch.bfloat16)
            self.unused = torch.nn.Linear(4, 3)

        def forward(self, x, kept=None):
            kept = {} if kept is None else kept
            kept["first"] = self.first(x)
            kept["relu"] = self.relu(kept["first"].clone())
            kept["attention"] = self.attention(*[kept["relu"].unsqueeze(1)] * 3)[0]
            kept["second"] = self.second(kept["attention"].squeeze(1).to(torch.bfloat16))
            kept["relu#2"] = self.relu(kept["second"].clone())
            return kept["relu#2"]

    model, images = Model().eval(), torch.randn(7, 5)
    path = os.path.join(directory, "torch.safetensors")
    with torch.inference_mode():
        with ActivationFile(path, 7) as file, torch_layers(model, file):
            for batch in images.split(3):
                model(batch)
        names, found = layers_of(path)
        assert names == ["first", "relu", "attention", "second", "relu#2"], names
        expected = {name: [] for name in names}
        for batch in images.split(3):
            kept = {}
            model(batch, kept)
            for name in names:
                expected[name].append(kept[name])
        for name in names:
            kind, shape, data = found[name]
            tensor = torch.cat(expected[name])
            assert kind == ("BF16" if tensor.dtype == torch.bfloat16 else "F32") and shape == list(tensor.shape), name
            assert data == tensor.contiguous().view(torch.uint8).numpy().tobytes(), name
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with ActivationFile(path, 3) as file, torch_layers(model.train(), file, "^first$|unused"):
            model(images[:3])
    assert [part in str(one.message) for one, part in zip(warned, ["training mode", "no output of unused"])] == [True] * 2
    assert layers_of(path)[0] == ["first"]
    model.eval()

    class Pair(torch.nn.Module):
        """A number, and then a tensor."""

        def __init__(self):
            super().__init__()
            self.inner = torch.nn.Linear(5, 2)

        def forward(self, x):
            return {"loss": x.sum(), "logits": self.inner(x)}

    class Catching(torch.nn.Module):
        """One module fails and is passed over; one has other dimensions."""

        def __init__(self):
            super().__init__()
            self.failing = torch.nn.Sequential(torch.nn.Linear(4, 3))
            self.positions = torch.nn.Embedding(5, 5)
            self.pair = Pair()

        def forward(self, x):
            with contextlib.suppress(RuntimeError):
                self.failing(x)
            return self.pair(x + self.positions(torch.arange(1)))

    catching = Catching().eval()
    with ActivationFile(path, 3) as file, torch_layers(catching, file, skip="positions"):
        catching(images[:3])
    assert layers_of(path)[0] == ["pair.inner"], layers_of(path)[0]
    with ActivationFile(path, 3) as file, torch_layers(catching, file, "^pair$"):
        catching(images[:3])
    assert layers_of(path)[1]["pair"][1] == [3, 2]

    def other_dimensions(path):
        with ActivationFile(path, 3) as file, torch_layers(catching, file):
            catching(images[:3])

    refused(directory, "positions", other_dimensions)
    with ActivationFile(path, 3) as file:
        try:
            with torch_layers(torch.jit.script(torch.nn.Linear(5, 3)).eval(), file):
                raise AssertionError("hooked")
        except ValueError as reason:
            assert "ScriptModule" in str(reason)
        with torch_layers(model, file):
            model(images[:3])

    def outside(path):
        with ActivationFile(path, 3) as file, torch_layers(model, file):
            model.first(images[:3])

    def unmatched(path):
        with ActivationFile(path, 3) as file, torch_layers(model, file, "third"):
            model(images[:3])

    refused(directory, "outside of the model", outside, RuntimeError)
    refused(directory, "matches 'third'", unmatched)


def main():
    directory = sys.argv[1]
    streamed(directory)
    misused(directory)
    after_a_refusal(directory)
    failing_disks(directory)
    links(directory)
    two_at_once(directory)
    try:
        of_torch(directory)
    except ModuleNotFoundError as reason:
        print(f"skipped: {reason}")


if __name__ == "__main__":
    main()
