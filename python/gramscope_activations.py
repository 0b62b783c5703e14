"""Writes activations to a safetensors file that gramscope compares, batch by batch, so that they need not fit into memory.

From PyTorch, what the modules of a model put out while it runs:

    model.eval()
    with ActivationFile("torch.safetensors", examples=len(dataset)) as file, torch_layers(model, file):
        with torch.inference_mode():
            for images, _ in loader:  # shuffle=False, drop_last=False
                model(images)

From JAX, or anything else that NumPy reads:

    with ActivationFile("jax.safetensors", examples=10_000) as file:
        for images in batches:
            _, state = model.apply(variables, images, capture_intermediates=True)
            for path, values in flatten_dict(state["intermediates"], sep="/").items():
                file.append(path, values[0])

Under `jax.jit` dictionaries come sorted by name: ActivationFile(..., layers=[...]) says which layer is the first.

Then `gramscope cka --activations torch.safetensors --out cka`. Two files can be compared where they hold the same examples in
the same order. Needs Python 3.8 and NumPy, and for `torch_layers` PyTorch 2.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
import os
import re
import secrets
import warnings
from dataclasses import dataclass
from typing import Any, Iterator, Sequence

import numpy as np

__all__ = ["ActivationFile", "torch_layers"]

# By NumPy's name: safetensors' name, and bytes.
_TYPES = {"float16": ("F16", 2), "bfloat16": ("BF16", 2), "float32": ("F32", 4), "float64": ("F64", 8)}
# What the header may take. It is written last, before values whose place is known first.
_HEADER_BYTES = 1 << 20


@dataclass
class _Layer:
    type: str
    shape: tuple[int, ...]
    """Of an example."""
    start: int
    """Where it begins, in bytes behind the header."""
    example_bytes: int
    count: int = 0
    """Examples so far."""


class ActivationFile:
    """A safetensors file with a tensor [examples, ...] a layer.

    Every batch hands over the same layers, once each, with the same number of examples as their first dimension. Values go straight
    to their place in a file beside `path`, which gets its name when it is closed and whole, and is removed otherwise.

    The order of the layers is that of `layers`, a list of their names, or else that in which they come.
    """

    def __init__(self, path: str | os.PathLike[str], examples: int, layers: Sequence[str] | None = None):
        self.path = os.path.abspath(os.fsdecode(path))
        self.examples = operator.index(examples)
        if self.examples < 1:
            raise ValueError(f"{examples} examples: there must be at least 1")
        if os.path.isdir(self.path):
            raise IsADirectoryError(f"{self.path} is a directory")
        self._order = None if layers is None else list(layers)
        self._layers: dict[str, _Layer] = {}
        self._end = 0
        # Of the header, bytes that no layer has taken yet.
        self._room = _HEADER_BYTES - 128
        # Examples of all batches but the one at work, and of that one.
        self._before, self._batch = 0, 0
        self._part = f"{self.path}.{secrets.token_hex(4)}.part"
        self._file = open(self._part, "xb", buffering=0)

    def append(self, name: str, values: Any) -> None:
        """Adds the next examples of the layer `name`: an array [n, ...] of float16, bfloat16, float32 or float64.

        Takes PyTorch's tensors, wherever they are, and whatever `numpy.asarray` makes an array of. They are written before this
        returns, so that they may be overwritten afterwards.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        _check_name(name)
        try:
            kind, array = _as_array(values)
        except (TypeError, ValueError, RuntimeError) as reason:
            raise type(reason)(f"layer {name}: {reason}") from reason
        if array.shape[0] == 0:
            return
        layer = self._layers.get(name) or self._begin_layer(name, kind, array.shape[1:])
        self._check(name, layer, kind, array)
        self._write(_HEADER_BYTES + layer.start + layer.count * layer.example_bytes, memoryview(array.reshape(-1).view(np.uint8)))
        layer.count += array.shape[0]

    def close(self) -> None:
        """Gives the file its name; once it is closed, nothing more.

        Fails, and leaves no file, where layers have fewer examples than were promised.
        """
        if self._file is None:
            return
        try:
            self._check_whole()
            self._write(0, memoryview(self._header()))
            os.fsync(self._file.fileno())
        except BaseException:
            self.discard()
            raise
        self._file.close()
        self._file = None
        try:
            os.replace(self._part, self.path)
        except OSError as reason:
            raise OSError(f"the activations are in {self._part}, which cannot be renamed: {reason}") from reason

    def discard(self) -> None:
        """Forgets what was added, unless the file is closed."""
        if self._file is None:
            return
        with contextlib.suppress(OSError):
            self._file.close()
        self._file = None
        with contextlib.suppress(FileNotFoundError):
            os.remove(self._part)

    def __enter__(self) -> ActivationFile:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _begin_layer(self, name: str, kind: str, shape: tuple[int, ...]) -> _Layer:
        if self._before > 0:
            raise ValueError(f"layer {name} was not in the first batch")
        if self._order is not None and name not in self._order:
            raise ValueError(f"layer {name} is none of the layers that were named")
        if 0 in shape:
            raise ValueError(f"layer {name} has no features: {list(shape)} an example")
        layer = _Layer(kind, shape, self._end, math.prod(shape) * _size(kind))
        # Its entry, and its name in the list of layers, which is text within text.
        self._room -= len(json.dumps({name: self._entry(layer)})) + len(json.dumps(json.dumps(name)))
        if self._room < 0:
            raise ValueError(f"layer {name}: the header has no room for more than {len(self._layers)} layers")
        self._layers[name] = layer
        self._end += self.examples * layer.example_bytes
        self._file.truncate(_HEADER_BYTES + self._end)
        return layer

    def _check(self, name: str, layer: _Layer, kind: str, array: np.ndarray) -> None:
        """Fails where this is not the layer's next batch."""
        count, shape = array.shape[0], array.shape[1:]
        if (kind, shape) != (layer.type, layer.shape):
            raise ValueError(f"layer {name} is {kind}{list(shape)} an example, and was {layer.type}{list(layer.shape)}")
        if layer.count == self._before + self._batch:
            self._begin_batch(name, count)
        elif count != self._batch:
            problem = f"layer {name} has {count} examples where others of the batch have {self._batch}"
            raise ValueError(f"{problem}: is its first dimension that of the examples?")
        if layer.count + count > self.examples:
            raise ValueError(f"layer {name} has more than {self.examples} examples")

    def _begin_batch(self, name: str, count: int) -> None:
        done = self._before + self._batch
        missing = [other for other, layer in self._layers.items() if layer.count < done and other != name]
        if missing:
            raise ValueError(f"layer {name} comes a second time in a batch, before layer {missing[0]}")
        self._before, self._batch = done, count

    def _check_whole(self) -> None:
        if not self._layers:
            raise ValueError(f"{self.path}: no layer was added")
        for name, layer in self._layers.items():
            if layer.count < self.examples:
                problem = f"layer {name} has {layer.count} of {self.examples} examples"
                raise ValueError(f"{problem}: was a last batch dropped, or is that not their number?")
        missing = [name for name in self._order or [] if name not in self._layers]
        if missing:
            raise ValueError(f"layer {missing[0]} was named and not added")

    def _header(self) -> bytes:
        names = list(self._layers) if self._order is None else self._order
        header: dict[str, Any] = {"__metadata__": {"layers": json.dumps(names)}}
        header.update((name, self._entry(layer)) for name, layer in self._layers.items())
        length = _HEADER_BYTES - 8
        return length.to_bytes(8, "little") + json.dumps(header).encode().ljust(length)

    def _entry(self, layer: _Layer) -> dict[str, Any]:
        end = layer.start + self.examples * layer.example_bytes
        return {"dtype": layer.type, "shape": [self.examples, *layer.shape], "data_offsets": [layer.start, end]}

    def _write(self, place: int, data: memoryview) -> None:
        self._file.seek(place)
        while data:
            data = data[self._file.write(data) :]


@contextlib.contextmanager
def torch_layers(model: Any, file: ActivationFile, pattern: str | None = None) -> Iterator[None]:
    """Adds the outputs of modules of `model` to `file`, whenever `model(...)` is called.

    They are the innermost ones, those that call no module with an output themselves; with `pattern`, a regular expression, those in
    whose name it is found, as `model.named_modules()` has it. Of what a module returns the first tensor is taken; a module that
    returns none is passed over. A module that is called several times is a layer each time: relu, relu#2, relu#3. What a model
    computes without a module, functional ReLUs and residual sums, is not seen: name the block around it, or `append` it. Tensors
    have the examples as their first dimension (batch_first=True).
    """
    if hasattr(model, "_orig_mod") or type(model).__name__ == "DataParallel":
        raise ValueError(f"{type(model).__name__} hides its modules: hand over the model that it was made from")
    if model.training:
        warnings.warn("the model is in training mode: model.eval() turns dropout and batch statistics off", stacklevel=3)
    hooks = _Hooks(model, file, pattern)
    try:
        yield
    finally:
        hooks.remove()
    if hooks.silent:
        warnings.warn(f"no output of {', '.join(sorted(hooks.silent))}", stacklevel=3)


class _Hooks:
    """Watches which modules of a model are at work."""

    def __init__(self, model: Any, file: ActivationFile, pattern: str | None):
        self.model, self.file, self.pattern = model, file, pattern
        # Of each module at work, outermost first, how many below it had an output.
        self.below: list[int] = []
        self.calls: dict[str, int] = {}
        self.handles: list[Any] = []
        names = {name or type(model).__name__: module for name, module in model.named_modules()}
        # What computes weights is no layer.
        names = {name: module for name, module in names.items() if "parametrizations" not in name.split(".")}
        self.silent = {name for name in names if pattern is not None and re.search(pattern, name)}
        if pattern is not None and not self.silent:
            raise ValueError(f"no module of the model matches {pattern!r}")
        for name, module in names.items():
            self.handles.append(module.register_forward_pre_hook(self.begins))
            self.handles.append(module.register_forward_hook(self.ends(name)))

    def begins(self, module: Any, _inputs: Any) -> None:
        if module is self.model:
            # Whatever an exception has left of the call before.
            self.below.clear()
            self.calls.clear()
        elif not self.below:
            raise RuntimeError("a module runs outside of the model: hand torch_layers the module that you call")
        self.below.append(0)

    def ends(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            below = self.below.pop()
            tensor = _first_tensor(output)
            taken = below == 0 if self.pattern is None else re.search(self.pattern, name) is not None
            if taken and tensor is not None:
                self.calls[name] = self.calls.get(name, 0) + 1
                self.silent.discard(name)
                self.file.append(name if self.calls[name] == 1 else f"{name}#{self.calls[name]}", tensor)
            if self.below:
                self.below[-1] += below + (tensor is not None)

        return hook

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _first_tensor(output: Any) -> Any:
    """`output` if it is a tensor, or else the first tensor in it."""
    if _is_tensor(output):
        return output
    if isinstance(output, dict):
        output = list(output.values())
    if isinstance(output, (tuple, list)):
        return next((value for value in output if _is_tensor(value)), None)
    return None


def _is_tensor(value: Any) -> bool:
    # Without importing PyTorch, which only those need who have it.
    return hasattr(value, "detach")


def _as_array(values: Any) -> tuple[str, np.ndarray]:
    """safetensors' name of the type, and the values in the file's order of bytes; bfloat16 as 16 bits."""
    if _is_tensor(values):
        values = values.detach().cpu().resolve_neg()
        kind = str(values.dtype).rpartition(".")[2]
        array = (values.view(_torch_int16()) if kind == "bfloat16" else values).numpy()
    else:
        array = np.asarray(values)
        kind = array.dtype.name
        array = array.view(np.int16) if kind == "bfloat16" else array
    if kind not in _TYPES:
        raise TypeError(f"values of type {kind}, where activations are {', '.join(_TYPES)}")
    if array.ndim == 0:
        raise ValueError("a single number, where activations are arrays [examples, ...]")
    return _TYPES[kind][0], np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _torch_int16() -> Any:
    import torch

    return torch.int16


def _size(kind: str) -> int:
    return next(size for name, size in _TYPES.values() if name == kind)


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a layer's name is text, not {name!r}")
    if name == "__metadata__":
        raise ValueError("__metadata__ is no name for a layer")
    name.encode()
