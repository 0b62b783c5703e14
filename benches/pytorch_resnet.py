"""The CIFAR residual family of Gramscope in PyTorch, layer for layer and name for name.

What the fixtures and the comparisons with PyTorch share. Parameters have the names of Gramscope's checkpoints; PyTorch
stores a convolution's weights as [out, in, kh, kw] and images as [n, c, h, w], Gramscope [out, kh, kw, in] and
[n, h, w, c].
"""

import torch
from torch import nn

BATCH_NORM = {"eps": 1e-3, "momentum": 0.01}  # PyTorch counts the momentum from the other end
WEIGHT_DECAY, MOMENTUM = 1e-4, 0.9


class Block(nn.Module):
    """conv - batch norm - ReLU - conv - batch norm - (+ shortcut) - ReLU."""

    def __init__(self, channels_in, channels, stride, residual):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1)
        self.bn1 = nn.BatchNorm2d(channels, **BATCH_NORM)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(channels, **BATCH_NORM)
        self.residual = residual
        self.shortcut = nn.Conv2d(channels_in, channels, 1, stride) if residual and stride > 1 else None

    def forward(self, x, tap):
        y = tap("relu1", torch.relu(tap("bn1", self.bn1(tap("conv1", self.conv1(x))))))
        y = tap("bn2", self.bn2(tap("conv2", self.conv2(y))))
        if self.shortcut is not None:
            x = tap("shortcut", self.shortcut(x))
        if self.residual:
            y = tap("add", y + x)
        return tap("relu2", torch.relu(y))


class ResNet(nn.Module):
    """Depth 6m + 2. `forward(images, tap)` hands every layer's output to `tap(name, output)` as it is made."""

    def __init__(self, depth, width=1.0, residual=True, classes=10):
        super().__init__()
        channels = [max(1, round(16 * width * 2**stage)) for stage in range(3)]
        self.stem = nn.ModuleDict(
            {"conv": nn.Conv2d(3, channels[0], 3, padding=1), "bn": nn.BatchNorm2d(channels[0], **BATCH_NORM)}
        )
        before = channels[0]
        for stage, after in enumerate(channels, 1):
            blocks = nn.ModuleDict()
            for block in range(1, (depth - 2) // 6 + 1):
                blocks[f"block{block}"] = Block(before, after, 2 if stage > 1 and block == 1 else 1, residual)
                before = after
            setattr(self, f"stage{stage}", blocks)
        self.logits = nn.Linear(channels[2], classes)

    def forward(self, images, tap=None):
        observe = tap or (lambda name, output: None)

        def tapped(prefix):
            def keep(name, output):
                observe(prefix + name, output)
                return output

            return keep

        tap = tapped("stem.")
        x = tap("relu", torch.relu(tap("bn", self.stem["bn"](tap("conv", self.stem["conv"](images))))))
        for stage in (1, 2, 3):
            for name, block in getattr(self, f"stage{stage}").items():
                x = block(x, tapped(f"stage{stage}.{name}."))
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
