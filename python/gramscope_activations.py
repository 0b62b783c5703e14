"""Writes activations to a safetensors file that gramscope compares, batch by batch, so that they need not fit into memory.

From PyTorch, what the modules of a model put out while it runs:

    model.eval()
    with ActivationFile("torch.safetensors", examples=len(dataset)) as file, torch_layers(model, file):
        with torch.inference_mode():
            for images, _ in loader:  # shuffle=False, drop_last=False
                model(images)

From JAX, or anything else that NumPy reads:

    from flax.traverse_util import flatten_dict

    with ActivationFile("jax.safetensors", examples=10_000) as file:
        for images in batches:
            _, state = model.apply(variables, images, capture_intermediates=True)
            for path, calls in flatten_dict(state["intermediates"], sep="/").items():
                for call, values in enumerate(calls):  # of a module that is called several times
                    file.append(f"{path}#{call}", values)

Under `jax.jit` dictionaries come sorted by name: ActivationFile(..., layers=[...]) says which layer is the first.

Then `gramscope cka --activations torch.safetensors --out cka`. Two files can be compared where they hold the same examples in
the same order. Needs Python 3.8 and NumPy, and for `torch_layers` PyTorch 2.
"""

from __future__ import annotations

import contextlib
import errno
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

# safetensors' names of NumPy's types.
_TYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}
# Room for the header at the head of the file: it is written last, when all layers are known.
_HEADER_BYTES = 1 << 20


@dataclass
class _Layer:
    type: str
    # Of an example.
    shape: tuple[int, ...]
    # Where it begins, in bytes behind the header.
    start: int
    example_bytes: int
    # Examples so far.
    count: int = 0


class ActivationFile:
    """A safetensors file with a tensor [examples, ...] a layer.

    Every batch hands over the same layers, once each, with the same number of examples as their first dimension. Values go straight
    to their place in a file beside `path`, which gets that name when it is closed and whole, and is removed otherwise; only a process
    that is killed leaves it.

    The order of the layers is that of `layers`, a list of their names, or else that in which they come.
    """

    def __init__(self, path: str | os.PathLike[str], examples: int, layers: Sequence[str] | None = None):
        # Whatever becomes of the working directory; and a link stays one.
        self.path = os.path.realpath(os.fsdecode(path))
        self.examples = operator.index(examples)
        if self.examples < 1:
            raise ValueError(f"{examples} examples: there must be at least 1")
        if os.path.exists(self.path) and not os.path.isfile(self.path):
            raise FileExistsError(f"{self.path} is no file")
        self._order = None if layers is None else _names(layers)
        self._layers: dict[str, _Layer] = {}
        self._end = 0
        # Of the header, bytes that no layer has taken yet.
        self._room = _HEADER_BYTES - 128
        # Examples of all batches but the one at work, and of that one; the layer that it began with.
        self._before, self._batch, self._first = 0, 0, ""
        self._part = f"{self.path}.{secrets.token_hex(4)}.part"
        self._file = open(self._part, "xb", buffering=0)

    def append(self, name: str, values: Any) -> None:
        """Adds the next examples of the layer `name`: an array [n, ...] of float16, bfloat16, float32 or float64.

        Takes PyTorch's tensors, wherever they are, and whatever `numpy.asarray` makes an array of. They are written before this
        returns, so that they may be overwritten afterwards. What is refused changes nothing.
        """
        if self._file is None:
            raise ValueError(f"{self.path} is closed")
        _check_name(name)
        try:
            kind, array = _as_array(values)
        except (AttributeError, TypeError, ValueError, RuntimeError) as reason:
            # Not every error can be made anew from a text.
            kinds = (AttributeError, TypeError, ValueError, RuntimeError)
            raise next(kind for kind in kinds if isinstance(reason, kind))(f"layer {name}: {reason}") from reason
        if array.shape[0] == 0:
            return
        layer = self._layers.get(name)
        if layer is None:
            layer = self._new_layer(name, kind, array)
        batch = self._check_batch(name, layer, kind, array)
        if name not in self._layers:
            self._add_layer(name, layer)
        self._before, self._batch, self._first = batch
        self._write(_HEADER_BYTES + layer.start + layer.count * layer.example_bytes, array.reshape(-1).view(np.uint8))
        layer.count += array.shape[0]

    def close(self) -> None:
        """Gives the file its name. A second call does nothing.

        Fails, and leaves no file, where layers have fewer examples than were promised.
        """
        if self._file is None:
            return
        try:
            self._check_whole()
            self._write(0, np.frombuffer(self._header(), np.uint8))
            self._flush()
            self._file.close()
        except BaseException:
            self.discard()
            raise
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

    def _new_layer(self, name: str, kind: str, array: np.ndarray) -> _Layer:
        """What a layer will be that comes for the first time."""
        shape = array.shape[1:]
        if self._before > 0:
            raise ValueError(f"layer {name} was not in the first batch")
        if self._order is not None and name not in self._order:
            raise ValueError(f"layer {name} is none of the layers that were named")
        if 0 in shape:
            raise ValueError(f"layer {name} has no features: {list(shape)} an example")
        layer = _Layer(kind, shape, self._end, math.prod(shape) * array.itemsize)
        if self._header_bytes(name, layer) > self._room:
            raise ValueError(f"layer {name}: the header has no room for more than {len(self._layers)} layers")
        return layer

    def _add_layer(self, name: str, layer: _Layer) -> None:
        self._layers[name] = layer
        self._room -= self._header_bytes(name, layer)
        self._end += self.examples * layer.example_bytes
        self._file.truncate(_HEADER_BYTES + self._end)

    def _check_batch(self, name: str, layer: _Layer, kind: str, array: np.ndarray) -> tuple[int, int, str]:
        """The examples before the batch that this is of, those of the batch, and the layer that it began with; fails where this is
        not the layer's next."""
        count, shape = array.shape[0], array.shape[1:]
        if (kind, shape) != (layer.type, layer.shape):
            raise ValueError(f"layer {name} is {kind}{list(shape)} an example, and was {layer.type}{list(layer.shape)}")
        before, batch, first = self._before, self._batch, self._first
        if layer.count == before + batch:
            before, batch, first = before + batch, count, name
            missing = [other for other, known in self._layers.items() if known.count < before]
            if missing:
                raise ValueError(f"layer {name} comes a second time in a batch, before layer {missing[0]}")
        question = "is the first dimension that of the examples?"
        if count != batch:
            raise ValueError(f"layer {name} has {count} examples in a batch where layer {first} has {batch}: {question}")
        if before + batch > self.examples:
            raise ValueError(f"layer {name} has more than {self.examples} examples: {question}")
        return before, batch, first

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

    def _header_bytes(self, name: str, layer: _Layer) -> int:
        # Its entry, and its name in the list of layers, which is text within text.
        return len(json.dumps({name: self._entry(layer)})) + len(json.dumps(json.dumps(name)))

    def _flush(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except OSError as reason:
            # Some file systems know no fsync; of others, this is where a full or broken disk shows.
            if reason.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                raise

    def _write(self, place: int, data: np.ndarray) -> None:
        self._file.seek(place)
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]


@contextlib.contextmanager
def torch_layers(model: Any, file: ActivationFile, pattern: str | None = None, skip: str | None = None) -> Iterator[None]:
    """Adds the outputs of modules of `model` to `file`, whenever `model(...)` is called.

    They are the innermost ones, those that call no module with an output themselves; with `pattern`, a regular expression, those in
    whose name it is found, as `model.named_modules()` has it. Those in whose name `skip` is found are left out: of position
    embeddings, say, whose first dimension is not that of the examples. Of what a module returns the first tensor is taken that is
    no single number; a module without is passed over. A module that is called several times is a layer each time: relu, relu#2.

    What a model computes without a module, functional ReLUs and residual sums, is not seen: name the block around it, or `append`
    it. Tensors have the examples as their first dimension (batch_first=True). In evaluation a Dropout is a layer like its input.
    One thread may run the model.
    """
    hidden = {"DataParallel", "ScriptModule", "OptimizedModule"}.intersection(kind.__name__ for kind in type(model).__mro__)
    if hidden:
        raise ValueError(f"a {hidden.pop()} hides its modules: hand over the model that it was made from")
    if any(module.training for module in model.modules()):
        warnings.warn("modules are in training mode: model.eval() turns dropout and batch statistics off", stacklevel=3)
    hooks = _Hooks(model, file, pattern, skip)
    try:
        hooks.register()
        yield
    finally:
        hooks.remove()
    if hooks.silent:
        warnings.warn(f"no output of {', '.join(sorted(hooks.silent))}", stacklevel=3)


class _Hooks:
    """Watches which modules of a model are at work."""

    def __init__(self, model: Any, file: ActivationFile, pattern: str | None, skip: str | None):
        self.model, self.file = model, file
        # What computes weights is no layer.
        names = {name: module for name, module in model.named_modules() if "parametrizations" not in name.split(".")}
        self.names = {name: module for name, module in names.items() if skip is None or not re.search(skip, name)}
        # None: the innermost.
        self.wanted = None if pattern is None else {name for name in self.names if re.search(pattern, name)}
        if self.wanted is not None and not self.wanted:
            raise ValueError(f"no module of the model matches {pattern!r}")
        # Lists of modules are not called.
        self.silent = {name for name in self.wanted or () if type(self.names[name]).__name__ not in ("ModuleList", "ModuleDict")}
        # The modules at work, outermost first, each with how many below it had an output.
        self.at_work: list[list[Any]] = []
        self.calls: dict[str, int] = {}
        self.handles: list[Any] = []

    def register(self) -> None:
        for name, module in self.names.items():
            self.handles.append(module.register_forward_pre_hook(self.begins))
            self.handles.append(module.register_forward_hook(self.ends(name)))
        if self.model not in self.names.values():
            self.handles.append(self.model.register_forward_pre_hook(self.begins))

    def begins(self, module: Any, _inputs: Any) -> None:
        if module is self.model:
            # Whatever an exception has left of the call before.
            self.at_work.clear()
            self.calls.clear()
        elif not self.at_work:
            raise RuntimeError("a module runs outside of the model: hand torch_layers the module that you call")
        self.at_work.append([module, 0])

    def ends(self, name: str) -> Any:
        layer = name.replace("_orig_mod.", "") or type(self.model).__name__

        def hook(module: Any, _inputs: Any, output: Any) -> None:
            below = self.finish(module)
            tensor = _first_tensor(output)
            if tensor is None:
                return
            if self.at_work:
                self.at_work[-1][1] += 1
            if below == 0 if self.wanted is None else name in self.wanted:
                self.calls[layer] = self.calls.get(layer, 0) + 1
                self.silent.discard(name)
                self.file.append(layer if self.calls[layer] == 1 else f"{layer}#{self.calls[layer]}", tensor)

        return hook

    def finish(self, module: Any) -> int:
        """How many modules below this one had an output."""
        below = 0
        while self.at_work:
            # Those that an exception ended, which this one or something in it caught, are still there.
            last, count = self.at_work.pop()
            below += count
            if last is module:
                return below
        raise RuntimeError("the model calls itself, or runs in several threads: which of its modules are innermost is not known")

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _first_tensor(output: Any) -> Any:
    """`output` if it is a tensor of some dimension, or else the first such in it."""
    if isinstance(output, dict):
        output = tuple(output.values())
    if not isinstance(output, (tuple, list)):
        output = (output,)
    return next((value for value in output if _is_tensor(value) and value.dim() > 0), None)


def _is_tensor(value: Any) -> bool:
    # Without importing PyTorch, which only those need who have it.
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


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
    return _TYPES[kind], np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def _torch_int16() -> Any:
    import torch

    return torch.int16


def _names(layers: Sequence[str]) -> list[str]:
    if isinstance(layers, str):
        raise TypeError(f"the layers are a list of names, not {layers!r}")
    names = list(layers)
    for name in names:
        _check_name(name)
    twice = [name for index, name in enumerate(names) if name in names[:index]]
    if twice:
        raise ValueError(f"layer {twice[0]} is named twice")
    return names


def _check_name(name: Any) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a layer's name is text, not {name!r}")
    if name == "__metadata__":
        raise ValueError("__metadata__ is no name for a layer")
    name.encode()
