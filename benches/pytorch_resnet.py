"""The residual families of Gramscope in PyTorch, layer for layer and name for name.

What the fixtures and the comparisons with PyTorch share. Parameters have the names of Gramscope's checkpoints; PyTorch
stores a convolution's weights as [out, in, kh, kw] and images as [n, c, h, w], Gramscope [out, kh, kw, in] and
[n, h, w, c].
"""

import torch
from torch import nn

BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}  # PyTorch counts the momentum from the other end
WEIGHT_DECAY, MOMENTUM = 1e-4, 0.9


class Block(nn.Module):
    """conv - batch norm - ReLU, as often as there are convolutions; before the last ReLU the shortcut is added.

    `convolutions` are (kernel, channels, stride), one after the other; `shortcut` is None, "identity", "projection" or
    "normalised projection".
    """

    def __init__(self, channels_in, convolutions, shortcut):
        super().__init__()
        self.depth = len(convolutions)
        before, strides = channels_in, 1
        for number, (kernel, channels, stride) in enumerate(convolutions, 1):
            setattr(self, f"conv{number}", nn.Conv2d(before, channels, kernel, stride, padding=kernel // 2))
            setattr(self, f"bn{number}", nn.BatchNorm2d(channels, **BATCH_NORM))
            before, strides = channels, strides * stride
        self.adds = shortcut is not None
        self.shortcut = nn.Conv2d(channels_in, before, 1, strides) if self.adds and "projection" in shortcut else None
        self.shortcut_bn = nn.BatchNorm2d(before, **BATCH_NORM) if shortcut == "normalised projection" else None

    def forward(self, x, tap):
        y = x
        for number in range(1, self.depth + 1):
            y = tap(f"conv{number}", getattr(self, f"conv{number}")(y))
            y = tap(f"bn{number}", getattr(self, f"bn{number}")(y))
            if number < self.depth:
                y = tap(f"relu{number}", torch.relu(y))
        if self.shortcut is not None:
            x = tap("shortcut", self.shortcut(x))
        if self.shortcut_bn is not None:
            x = tap("shortcut_bn", self.shortcut_bn(x))
        if self.adds:
            y = tap("add", y + x)
        return tap(f"relu{self.depth}", torch.relu(y))


def cifar_blocks(depth, width, residual):
    """The stem's channels and every stage's blocks, as arguments of `Block`: depth 6m + 2, three stages of m blocks."""
    widths = [max(1, round(16 * width * 2**stage)) for stage in range(3)]
    stages, before = [], widths[0]
    for stage, channels in enumerate(widths):
        blocks = []
        for block in range((depth - 2) // 6):
            first = stage > 0 and block == 0
            shortcut = ("projection" if first else "identity") if residual else None
            blocks.append((before, [(3, channels, 2 if first else 1), (3, channels, 1)], shortcut))
            before = channels
        stages.append(blocks)
    return widths[0], stages


def imagenet_blocks(depth, width, residual):
    """The same of the ImageNet family: 3, 4, (depth - 32) / 3 and 3 bottlenecks, those of the third stage scaled in width."""
    stages, before = [], 64
    for stage, blocks_in in enumerate((3, 4, (depth - 32) // 3, 3)):
        inner = max(1, round(64 * 2**stage * (width if stage == 2 else 1)))
        blocks = []
        for block in range(blocks_in):
            stride = 2 if stage > 0 and block == 0 else 1
            shortcut = ("identity" if block else "normalised projection") if residual else None
            blocks.append((before, [(1, inner, 1), (3, inner, stride), (1, 4 * inner, 1)], shortcut))
            before = 4 * inner
        stages.append(blocks)
    return 64, stages


class ResNet(nn.Module):
    """`forward(images, tap)` hands every layer's output to `tap(name, output)` as it is made."""

    def __init__(self, depth, width=1.0, residual=True, classes=10, family="cifar"):
        super().__init__()
        self.pools_stem = family == "imagenet"
        channels, stages = (imagenet_blocks if family == "imagenet" else cifar_blocks)(depth, width, residual)
        convolution = nn.Conv2d(3, channels, 7, 2, padding=3) if self.pools_stem else nn.Conv2d(3, channels, 3, padding=1)
        self.stem = nn.ModuleDict({"conv": convolution, "bn": nn.BatchNorm2d(channels, **BATCH_NORM)})
        self.stages = [f"stage{number}" for number in range(1, len(stages) + 1)]
        for name, blocks in zip(self.stages, stages):
            setattr(self, name, nn.ModuleDict({f"block{number}": Block(*block) for number, block in enumerate(blocks, 1)}))
        self.logits = nn.Linear(stages[-1][-1][1][-1][1], classes)

    def forward(self, images, tap=None):
        observe = tap or (lambda name, output: None)

        def tapped(prefix):
            def keep(name, output):
                observe(prefix + name, output)
                return output

            return keep

        tap = tapped("stem.")
        x = tap("relu", torch.relu(tap("bn", self.stem["bn"](tap("conv", self.stem["conv"](images))))))
        if self.pools_stem:
            x = tap("pool", nn.functional.max_pool2d(x, 3, 2, padding=1))
        for stage in self.stages:
            for name, block in getattr(self, stage).items():
                x = block(x, tapped(f"{stage}.{name}."))
        tap = tapped("")
        return tap("logits", self.logits(tap("pool", x.mean((2, 3)))))

    def load(self, state):
        """Takes over a checkpoint of Gramscope's, as a dictionary of tensors."""
        counters = {name: tensor for name, tensor in self.state_dict().items() if name.endswith("num_batches_tracked")}
        self.load_state_dict({name: from_nhwc(state[name]) for name in self.state_dict() if name not in counters} | counters)


def from_nhwc(tensor):
    """Images or a convolution's weights as PyTorch has them."""
    return tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor


def to_nhwc(tensor):
    """Images or a convolution's weights as Gramscope has them."""
    return (tensor.permute(0, 2, 3, 1) if tensor.dim() == 4 else tensor).contiguous()


def state(network):
    """Parameters and running statistics as Gramscope stores them."""
    kept = {name: to_nhwc(tensor).clone() for name, tensor in network.state_dict().items()}
    return {name: tensor for name, tensor in kept.items() if not name.endswith("num_batches_tracked")}


def decaying(network):
    """The weights that the penalty counts for: those of convolutions and of the linear layer."""
    return [parameter for parameter in network.parameters() if parameter.dim() > 1]
