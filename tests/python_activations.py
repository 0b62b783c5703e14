"""Writes files with python/activations.py into the directory that is named, and tries what it must refuse."""

import os
import sys

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "python"))

from activations import ActivationFile, torch_layers  # noqa: E402


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
    def write(examples, *appended):
        def to(path):
            with ActivationFile(path, examples) as file:
                for name, array in appended:
                    file.append(name, array)

        return to

    two, three = np.zeros((2, 3), np.float32), np.zeros((3, 3), np.float32)
    refused(directory, "layer a has 2 of 5 examples", write(5, ("a", two)))
    refused(directory, "layer b has 2 of 4 examples", write(4, ("a", two), ("b", two), ("a", two)))
    refused(directory, "more than 4 examples", write(4, ("a", two), ("a", three)))
    refused(directory, "not in the first batch", write(4, ("a", two), ("a", two), ("b", two)))
    refused(directory, "F32[2] an example, and was F32[3]", write(4, ("a", two), ("a", two[:, :2])))
    refused(directory, "F64[3] an example, and was F32[3]", write(4, ("a", two), ("a", two.astype(np.float64))))
    refused(directory, "int64", write(2, ("a", np.zeros((2, 3), np.int64))), TypeError)
    refused(directory, "single number", write(2, ("a", np.float32(1))))
    refused(directory, "no layer", write(2))
    refused(directory, "at least 1", write(0))
    refused(directory, "No such file", lambda path: write(2, ("a", two))(path + "/a"), OSError)


def of_torch(directory):
    """Layers that are called twice, in place, and in bfloat16."""
    import torch

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(5, 4)
            self.relu = torch.nn.ReLU(inplace=True)
            self.second = torch.nn.Linear(4, 3).to(torch.bfloat16)

        def forward(self, x):
            return self.relu(self.second(self.relu(self.first(x)).to(torch.bfloat16)))

    model, images = Model(), torch.randn(7, 5)
    path = os.path.join(directory, "torch.safetensors")
    with torch.inference_mode():
        with ActivationFile(path, 7) as file, torch_layers(model, file):
            for batch in images.split(3):
                model(batch)
        first = model.first(images)
        second = model.second(first.relu().to(torch.bfloat16))
    model(images)  # Nothing is hooked any more.
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        assert file.metadata()["layers"] == '["first", "relu", "second", "relu.2"]', file.metadata()
        for name, expected in [("first", first), ("relu", first.relu()), ("second", second), ("relu.2", second.relu())]:
            found = file.get_tensor(name)
            # Batches of other sizes may round differently.
            assert found.dtype == expected.dtype and torch.allclose(found, expected, rtol=1e-2, atol=1e-6), name


def main():
    directory = sys.argv[1]
    layers = [("z", values(0, (10, 4, 2))), ("a", values(1, (10, 3))), ("half", values(2, (10, 5), np.float16))]
    with ActivationFile(os.path.join(directory, "streamed.safetensors"), 10) as file:
        batches(file, layers, [4, 4, 2])
    with ActivationFile(os.path.join(directory, "whole.safetensors"), 10) as file:
        batches(file, layers, [10])
    misused(directory)
    try:
        of_torch(directory)
    except ModuleNotFoundError as reason:
        print(f"skipped: {reason}")


if __name__ == "__main__":
    main()
