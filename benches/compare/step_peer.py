"""PyTorch's side of step.py, run by the Python of its environment. Not started by hand.

    step_peer.py agree FOLDER THREADS   compute what step.rs has written there, in f64 and f32; distances as JSON
    step_peer.py worker THREADS         take the orders of step.rs, `load FOLDER` instead of `load SIZE SEED`
"""

from __future__ import annotations

import json
import re
import struct
import sys
from pathlib import Path

import numpy as np
import torch
from peers import dscpp, serve, timed
from torch import nn
from torch.nn import functional

Tensors = dict[str, torch.Tensor]

DTYPES = {"F64": "<f8", "F32": "<f4", "U8": "u1"}


def read(file: Path) -> Tensors:
    """The tensors of a safetensors file: the header's length, the header as JSON, the numbers."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
        header.pop("__metadata__", None)
        tensors = {}
        for name, of in header.items():
            begin, end = of["data_offsets"]
            opened.seek(8 + length + begin)
            numbers = np.frombuffer(bytearray(opened.read(end - begin)), dtype=DTYPES[of["dtype"]])
            tensors[name] = torch.from_numpy(numbers).reshape(of["shape"])
    return tensors


class Block(nn.Module):
    """Twice: convolution, ReLU, instance norm."""

    def __init__(self, inputs: int, outputs: int, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm1 = nn.InstanceNorm2d(outputs, eps=eps, affine=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.norm2 = nn.InstanceNorm2d(outputs, eps=eps, affine=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # In place: no backward needs what the convolution gave.
        x = self.norm1(functional.relu_(self.conv1(x)))
        return self.norm2(functional.relu_(self.conv2(x)))


class UNet(nn.Module):
    """The network whose weights these are; the names are those of seg_unet::UNet."""

    def __init__(self, weights: Tensors, eps: float) -> None:
        super().__init__()
        self.depth = sum(re.fullmatch(r"up\d+\.weight", name) is not None for name in weights)
        for name in dict.fromkeys(name.split(".")[0] for name in weights):
            if name.startswith("up"):
                inputs, outputs, *_ = weights[f"{name}.weight"].shape
                self.add_module(name, nn.ConvTranspose2d(inputs, outputs, 2, stride=2))
            elif name == "head":
                outputs, inputs, *_ = weights[f"{name}.weight"].shape
                self.add_module(name, nn.Conv2d(inputs, outputs, 1))
            else:
                outputs, inputs, *_ = weights[f"{name}.conv1.weight"].shape
                self.add_module(name, Block(inputs, outputs, eps))
        # Strict: a name that is missing here or there is an error.
        self.load_state_dict(weights)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for level in range(self.depth):
            skips.append(self.get_submodule(f"enc{level}")(x))
            x = functional.max_pool2d(skips[-1], 2)
        x = self.mid(x)
        for level in reversed(range(self.depth)):
            x = torch.cat([self.get_submodule(f"up{level}")(x), skips.pop()], 1)
            x = self.get_submodule(f"dec{level}")(x)
        return self.head(x)


class Step:
    """The network with its optimiser, and an image with its one-hot target."""

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        given = read(folder / "input.safetensors")
        self.net = UNet(read(folder / "weights.safetensors"), given["norm_eps"].item()).to(dtype)
        self.image = given["image"].to(dtype)
        classes = self.net.head.out_channels
        one_hot = functional.one_hot(given["labels"].long(), classes).movedim(-1, 1)
        self.y = one_hot.to(dtype).contiguous()
        self.sgd = torch.optim.SGD(
            self.net.parameters(), lr=given["lr"].item(), momentum=given["momentum"].item(), nesterov=True
        )

    def compute(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Forward, loss, backward: logits and loss; the gradients stand at the weights."""
        self.sgd.zero_grad(set_to_none=True)
        logits = self.net(self.image)
        loss = dscpp(logits, self.y)
        loss.backward()
        return logits, loss

    def train(self) -> None:
        self.compute()
        self.sgd.step()

    def logits(self) -> torch.Tensor:
        with torch.inference_mode():
            return self.net(self.image)

    def infer(self) -> torch.Tensor:
        with torch.inference_mode():
            return torch.softmax(self.logits(), 1)

    def computed(self) -> Tensors:
        """What step.rs writes: the loss, the logits of both modes, and each weight's gradient by its name."""
        logits, loss = self.compute()
        gradients = {name: weight.grad for name, weight in self.net.named_parameters()}
        return {"loss": loss.detach(), "logits": logits.detach(), "inferred": self.logits()} | gradients


def agree(folder: Path) -> None:
    """How far ours and PyTorch's f32 are from PyTorch's f64: relative L2."""
    found = {"ours": read(folder / "ours.safetensors"), "torch": Step(folder).computed()}
    exact = Step(folder, torch.float64).computed()
    gradients = exact.keys() - {"loss", "logits", "inferred"}
    answer: dict[str, object] = {"loss": exact["loss"].item()}
    for name, own in found.items():
        if own.keys() != exact.keys():
            sys.exit(f"{name} and the f64 network differ in these tensors: {sorted(own.keys() ^ exact.keys())}")
        answer[name] = {
            "loss": own["loss"].item(),
            "train_logits_distance": distance(own, exact, {"logits"}),
            "inference_logits_distance": distance(own, exact, {"inferred"}),
            "gradient_distance": distance(own, exact, gradients),
        }
    print(json.dumps(answer))


def distance(own: Tensors, exact: Tensors, names: set[str]) -> float:
    """Of the named tensors, taken as one vector."""
    apart = sum(((own[name].double() - exact[name]) ** 2).sum().item() for name in names)
    whole = sum((exact[name] ** 2).sum().item() for name in names)
    return (apart / whole) ** 0.5


class Worker:
    """A step, and the orders."""

    def load(self, folder: str) -> str:
        self.step = None  # the old one's memory first
        self.step = Step(Path(folder))
        return "loaded"

    def mode(self, name: str) -> object:
        return {"train": self.step.train, "inference": self.step.infer}[name]

    def time(self, mode: str, count: str) -> str:
        return timed(int(count), self.mode(mode))

    def memory(self, mode: str, count: str) -> str:
        iteration = self.mode(mode)
        try:
            Path("/proc/self/clear_refs").write_text("5")
            before = peak()
        except OSError:
            return "kib unknown"
        for _ in range(int(count)):
            iteration()
        return f"kib {before} {peak()}"


def peak() -> int:
    """The most memory resident since it was last forgotten, KiB."""
    return int(re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)[1])


def main() -> None:
    match sys.argv[1:]:
        case ["agree", folder, threads]:
            torch.set_num_threads(int(threads))
            agree(Path(folder))
        case ["worker", threads]:
            worker = Worker()
            serve(int(threads), {"load": worker.load, "time": worker.time, "memory": worker.memory})
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
