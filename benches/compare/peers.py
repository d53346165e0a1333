"""PyTorch's side of loss.py, run by the Python of its environment. Not started by hand.

    peers.py data FOLDER 1x2x512x512   draw logits and labels; write them, the one-hot target and the f64 reference
    peers.py compare FOLDER NAME...    relative L2 distance of each pair of gradients NAME.grad, as JSON
    peers.py versions PACKAGE...       as JSON
    peers.py worker THREADS            take the orders of loss.rs, for torch-eager, torch-compile and monai
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Callable

import numpy as np
import torch

GAMMA = 2
SMOOTH = 1e-7

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def dscpp(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """DSC++ (Eq. 9) of logits and a one-hot target [N, C, ...], mean over classes and items."""
    p = torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, 1)
    space = tuple(range(2, logits.ndim))
    tp = (p * y).sum(space)
    fp = ((p * (1 - y)) ** GAMMA).sum(space)
    fn = (((1 - p) * y) ** GAMMA).sum(space)
    return (1 - (tp + SMOOTH) / (tp + 0.5 * fp + 0.5 * fn + SMOOTH)).mean()


def monai_loss(channels: int) -> Loss:
    """The Dice loss with squared terms: DSC++ at γ = 2 wherever y is 0 or 1. Its sums are ours doubled, hence 2 s."""
    from monai.losses import DiceLoss

    return DiceLoss(
        sigmoid=channels == 1,
        softmax=channels > 1,
        squared_pred=True,
        include_background=True,
        reduction="mean",
        smooth_nr=2 * SMOOTH,
        smooth_dr=2 * SMOOTH,
    )


def dims(shape: str) -> tuple[int, ...]:
    return tuple(int(size) for size in shape.split("x"))


def read(folder: Path, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(np.fromfile(folder / name, dtype="<f4").reshape(shape))


def gradient_of(loss: Loss, logits: torch.Tensor, y: torch.Tensor) -> tuple[float, np.ndarray]:
    logits.grad = None
    value = loss(logits, y)
    value.backward()
    return value.item(), logits.grad.numpy()


def data(folder: Path, shape: tuple[int, ...]) -> None:
    """Rings, a class each, that the logits see with noise; the same numbers every time."""
    n, channels, *space = shape
    classes = max(channels, 2)
    axes = np.meshgrid(*(np.linspace(-1, 1, size) for size in space), indexing="ij")
    inwards = np.maximum(0, 1 - np.sqrt(sum(axis**2 for axis in axes)))
    ring = np.minimum((inwards * classes).astype(np.uint8), classes - 1)
    labels = np.broadcast_to(ring, (n, *space))
    numbers = [1] if channels == 1 else range(channels)
    one_hot = np.stack([labels == number for number in numbers], axis=1).astype("<f4")
    noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    logits = (2 * one_hot - 1 + 1.5 * noise).astype("<f4")
    logits.tofile(folder / "logits.f32")
    labels.tofile(folder / "labels.u8")
    one_hot.tofile(folder / "one_hot.f32")
    exact = torch.from_numpy(logits).double().requires_grad_()
    value, gradient = gradient_of(dscpp, exact, torch.from_numpy(one_hot).double())
    gradient.astype("<f4").tofile(folder / "reference.grad")
    print(json.dumps({"value": value}))


def compare(folder: Path, names: list[str]) -> None:
    gradients = {name: np.fromfile(folder / f"{name}.grad", dtype="<f4") for name in names}
    distances = []
    for a, b in itertools.combinations(names, 2):
        if gradients[a].size != gradients[b].size:
            sys.exit(f"{a}.grad has {gradients[a].size} numbers and {b}.grad {gradients[b].size}")
        distance = np.linalg.norm(np.subtract(gradients[a], gradients[b], dtype=np.float64))
        scale = np.linalg.norm(gradients[b].astype(np.float64))
        distances.append({"a": a, "b": b, "relative_l2": float(distance / scale)})
    print(json.dumps(distances))


def versions(packages: list[str]) -> None:
    from importlib.metadata import version

    print(json.dumps({"python": sys.version.split()[0]} | {name: version(name) for name in packages}))


def timed(count: int, iteration: Callable[[], object]) -> str:
    """The answer to "time": each iteration's milliseconds on the wall, then of the whole process, all its threads."""
    walls, cpus = [], []
    for _ in range(count):
        used, start = time.process_time(), time.perf_counter()
        iteration()
        walls.append((time.perf_counter() - start) * 1e3)
        cpus.append((time.process_time() - used) * 1e3)
    return " ".join(["ms", *map(str, walls), "cpu", *map(str, cpus)])


class Worker:
    """One shape, and the three losses on it."""

    def __init__(self) -> None:
        # Static shapes: what torch.compile does best.
        self.compiled: Loss = torch.compile(dscpp, dynamic=False)

    def load(self, folder: str, shape: str) -> str:
        size = dims(shape)
        self.logits = read(Path(folder), "logits.f32", size).requires_grad_()
        self.y = read(Path(folder), "one_hot.f32", size)
        return "loaded"

    def loss(self, contestant: str) -> Loss:
        if contestant == "monai":
            return monai_loss(self.logits.shape[1])
        return {"torch-eager": dscpp, "torch-compile": self.compiled}[contestant]

    def time(self, contestant: str, count: str) -> str:
        loss = self.loss(contestant)

        def iteration() -> None:
            self.logits.grad = None
            loss(self.logits, self.y).backward()

        return timed(int(count), iteration)

    def write(self, contestant: str, dtype: str, file: str) -> str:
        kind = {"f32": torch.float32, "f64": torch.float64}[dtype]
        logits = self.logits.detach().to(kind).requires_grad_()
        value, gradient = gradient_of(self.loss(contestant), logits, self.y.to(kind))
        gradient.astype("<f4").tofile(file)
        return f"value {value}"


def serve(threads: int, answers_to: dict[str, Callable[..., str]]) -> None:
    """Answers each order of standard input; see orders.rs."""
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore")
    # Answers alone go to standard output, whatever the libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for order in sys.stdin:
        verb, *rest = order.rstrip("\n").split("\t")
        try:
            answer = answers_to[verb](*rest)
        except Exception as error:  # whatever it is, the other side has to know
            first = (str(error).strip().splitlines() or [""])[0]
            answer = f"error {type(error).__name__}: {first}"
        print(answer, file=answers, flush=True)


def main() -> None:
    match sys.argv[1:]:
        case ["data", folder, shape]:
            data(Path(folder), dims(shape))
        case ["compare", folder, *names]:
            compare(Path(folder), names)
        case ["versions", *packages]:
            versions(packages)
        case ["worker", threads]:
            worker = Worker()
            serve(int(threads), {"load": worker.load, "time": worker.time, "write": worker.write})
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
