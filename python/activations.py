"""Writes activations to a safetensors file that gramscope compares, a batch at a time, so that they need not fit into memory.

From PyTorch, the output of every module that has no modules of its own:

    with ActivationFile("torch.safetensors", examples=10_000) as file, torch_layers(model, file):
        with torch.inference_mode():
            for images, _ in loader:
                model(images)

From JAX, or anything else that NumPy reads:

    with ActivationFile("jax.safetensors", examples=10_000) as file:
        for images in batches:
            for name, activation in intermediates(images):
                file.append(name, activation)

Then `gramscope cka --activations torch.safetensors --out cka`. Needs NumPy, and PyTorch for the first.
"""

import contextlib
import json
import os
import re

import numpy as np

DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
ALIGNMENT = 8


class ActivationFile:
    """A safetensors file with a tensor [examples, ...] a layer, in the order in which layers come first.

    Every batch hands over the same layers, once each. The first is kept in memory, for all shapes come before all values in
    the file; what follows goes straight to its place. The file has its name when it is whole, and not before.
    """

    def __init__(self, path, examples):
        self.path = os.fspath(path)
        self.examples = int(examples)
        self.layers = {}
        self.waiting = []
        self.part = None
        if self.examples < 1:
            raise ValueError(f"{examples} examples: there must be at least 1")

    def append(self, name, values):
        """Adds the next examples of the layer `name`: an array [n, ...] of float16, bfloat16, float32 or float64.

        What is not an array of NumPy's becomes one by `numpy.asarray`; a tensor of PyTorch's is taken from wherever it is.
        """
        dtype, shape, data = stored(values)
        count, shape = shape[0], shape[1:]
        if self.part is None and name in self.layers:
            self._begin()
        layer = self.layers.get(name)
        if layer is None:
            if self.part is not None:
                raise ValueError(f"layer {name} was not in the first batch")
            layer = self.layers[name] = Layer(dtype, shape)
        if (dtype, shape) != (layer.dtype, layer.shape):
            found, before = describe(dtype, shape), describe(layer.dtype, layer.shape)
            raise ValueError(f"layer {name} is {found} an example, and was {before}")
        if layer.count + count > self.examples:
            raise ValueError(f"layer {name} has more than {self.examples} examples")
        layer.count += count
        if self.part is None:
            self.waiting.append((layer, data))
        else:
            self._write(layer, data)

    def close(self):
        """Gives the file its name.

        Fails, and leaves no file, where a layer has fewer examples than were promised.
        """
        try:
            if not self.layers:
                raise ValueError(f"{self.path}: no layer was added")
            for name, layer in self.layers.items():
                if layer.count < self.examples:
                    raise ValueError(f"layer {name} has {layer.count} of {self.examples} examples")
            if self.part is None:
                self._begin()
            self.part.flush()
            os.fsync(self.part.fileno())
            self.part.close()
            os.replace(self.part.name, self.path)
        except BaseException:
            self.discard()
            raise

    def discard(self):
        """Forgets what was added."""
        if self.part is not None:
            self.part.close()
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.part.name)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.discard()

    def _begin(self):
        """Writes the header, now that all layers are known, and the first batch."""
        header = {"__metadata__": {"layers": json.dumps(list(self.layers))}}
        end = 0
        for name, layer in self.layers.items():
            layer.next = end
            end += self.examples * layer.example_bytes
            shape = [self.examples, *layer.shape]
            header[name] = {"dtype": layer.dtype, "shape": shape, "data_offsets": [layer.next, end]}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % ALIGNMENT)
        self.part = open(f"{self.path}.{os.getpid()}.part", "wb")
        self.part.write(len(text).to_bytes(8, "little") + text)
        start = self.part.tell()
        self.part.truncate(start + end)
        for layer in self.layers.values():
            layer.next += start
        waiting, self.waiting = self.waiting, []
        for layer, data in waiting:
            self._write(layer, data)

    def _write(self, layer, data):
        self.part.seek(layer.next)
        self.part.write(data)
        layer.next += len(data)


class Layer:
    """What is known of a layer: the type and shape of an example, how many there were, and where the next goes."""

    def __init__(self, dtype, shape):
        self.dtype = dtype
        self.shape = shape
        self.count = 0
        self.next = 0
        bits = int(re.search(r"\d+", dtype).group())
        self.example_bytes = bits // 8 * int(np.prod(shape, dtype=object))


@contextlib.contextmanager
def torch_layers(model, file, pattern=None):
    """While it lasts, every forward pass of `model` adds the outputs of its modules to `file`: of those whose name, as
    `named_modules` has it, the regular expression `pattern` is found in, or else of those without modules of their own.

    A module that is called several times in a pass is a layer each time: relu, relu.2, relu.3. What a module returns beside
    its first tensor is passed over. Values are those at that moment, whatever is done to them in place afterwards.
    """
    wanted = []
    for name, module in model.named_modules():
        if re.search(pattern, name) if pattern is not None else next(module.children(), None) is None:
            wanted.append((name or type(module).__name__, module))
    if not wanted:
        raise ValueError(f"no module of the model matches {pattern!r}")
    calls = {}

    def take(name):
        def hook(_module, _inputs, output):
            tensor = first_tensor(output)
            if tensor is None:
                return
            calls[name] = calls.get(name, 0) + 1
            file.append(name if calls[name] == 1 else f"{name}.{calls[name]}", tensor)

        return hook

    handles = [module.register_forward_hook(take(name)) for name, module in wanted]
    handles.append(model.register_forward_pre_hook(lambda *_: calls.clear()))
    try:
        yield file
    finally:
        for handle in handles:
            handle.remove()


def first_tensor(output):
    """`output` if it is a tensor, or else the first in it."""
    if hasattr(output, "detach"):
        return output
    values = output.values() if isinstance(output, dict) else output if isinstance(output, (tuple, list)) else ()
    return next((value for value in values if hasattr(value, "detach")), None)


def stored(values):
    """Type, as safetensors calls it, shape and bytes of an array, row after row."""
    if hasattr(values, "detach"):
        values = values.detach().cpu().contiguous()
        if str(values.dtype) == "torch.bfloat16":
            import torch

            return "BF16", tuple(values.shape), values.view(torch.int16).numpy().tobytes()
        values = values.numpy()
    array = np.asarray(values)
    dtype = DTYPES.get(array.dtype.name)
    if dtype is None:
        raise TypeError(f"values of type {array.dtype}: activations are {', '.join(DTYPES)}")
    if array.ndim == 0:
        raise ValueError("a single number: activations are arrays [examples, ...]")
    return dtype, array.shape, array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def describe(dtype, shape):
    return f"{dtype}{list(shape)}"
