"""PyTorch's side of gpu.py, run by the Python that holds it. Not started by hand.

    gpu_peer.py worker         take the orders below, a line each
    gpu_peer.py warm SHAPES STEPS   compile what the orders will need, so that the cache has it (comma-separated)

Without a GPU everything runs on the CPU, without graphs: that tries the script, and measures nothing.

    versions                         JSON: the device and the versions
    copy MIB                         the buffers of `time copy`
    data FOLDER SHAPE DTYPE          draw logits and labels, write them; the loss in f64
    distance FILE                    JSON: of a gradient from that in f64, relative L2
    loss DTYPE                       the losses on these logits
    step FOLDER PRECISION FORMAT     the network whose weights stand there
    losses COUNT                     the losses of the first steps, each before its step
    memory CONTESTANT                JSON: MiB of the allocator at their peak, and of the device
    layer N CIN COUT SIZE DTYPE      one convolution of 3x3
    product SIZE DTYPE               two square matrices
    check CONTESTANT                 the loss that a contestant computes
    time CONTESTANT COUNT            milliseconds of one, the mean of a block of them, COUNT times
    forget                           give all memory back
"""

from __future__ import annotations

import contextlib
import gc
import json
import sys
import time
from pathlib import Path
from typing import Callable

import numpy as np
import torch
from peers import dims, dscpp, serve
from step_peer import UNet, read
from torch.nn import functional

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
#: A block of iterations lasts this long, so that neither the clock nor a launch counts.
BLOCK_MS = 5.0
DTYPES = {"f32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16}
FORMATS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}


# Time and memory.


def elapsed(run: Callable[[], object], count: int) -> float:
    """Milliseconds of `count` runs, one after the other."""
    if not CUDA:
        start = time.perf_counter()
        for _ in range(count):
            run()
        return (time.perf_counter() - start) * 1e3
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(count):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end)


def blocks(run: Callable[[], object], count: int) -> str:
    run()
    once = elapsed(run, 1)
    size = max(1, min(1000, round(BLOCK_MS / max(once, 1e-3))))
    return " ".join(["ms", *(str(elapsed(run, size) / size) for _ in range(count))])


def used() -> int:
    """Bytes of the device that are taken, by whomever."""
    if not CUDA:
        return 0
    free, total = torch.cuda.mem_get_info()
    return total - free


def captured(run: Callable[[], object]) -> Callable[[], object]:
    """The run as a CUDA graph: one launch. What it returns stays where it is, and is written anew by each."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        returned = run()

    def replay() -> object:
        graph.replay()
        return returned

    return replay


def precision(name: str) -> None:
    """What f32 means, for everything that follows."""
    allow = name != "f32"
    torch.backends.cudnn.allow_tf32 = allow
    torch.backends.cuda.matmul.allow_tf32 = allow


# The loss.


def dscpp_of_labels(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """As `dscpp`, of class numbers: each pixel's class against the channels' numbers, which a compiler can fuse."""
    numbers = torch.arange(logits.shape[1], device=logits.device).reshape(1, -1, *[1] * (logits.ndim - 2))
    y = (labels.unsqueeze(1) == numbers).to(torch.float32)
    return dscpp(logits, y)


class Losses:
    """One shape: its logits, labels and one-hot target, and the contestants on them."""

    def __init__(self) -> None:
        self.ready: dict[str, Callable[[], object]] = {}
        self.compiled: dict[str, Callable[..., torch.Tensor]] = {}

    def data(self, folder: str, shape: str, dtype: str) -> str:
        self.drop()
        n, channels, *space = dims(shape)
        generator = torch.Generator(DEVICE).manual_seed(0)
        axes = torch.meshgrid(*(torch.linspace(-1, 1, size, device=DEVICE) for size in space), indexing="ij")
        inwards = (1 - sum(axis**2 for axis in axes).sqrt()).clamp_min(0)
        ring = (inwards * channels).to(torch.uint8).clamp_max(channels - 1)
        self.labels = ring.expand(n, *space).contiguous()
        one_hot = functional.one_hot(self.labels.long(), channels).movedim(-1, 1)
        self.y = one_hot.to(torch.float32).contiguous()
        noise = torch.randn(*self.y.shape, generator=generator, device=DEVICE)
        self.logits = (2 * self.y - 1 + 1.5 * noise).to(DTYPES[dtype])
        del one_hot, noise
        self.logits.float().cpu().numpy().tofile(Path(folder) / "logits.f32")
        self.labels.cpu().numpy().tofile(Path(folder) / "labels.u8")
        value, self.exact = self.in_f64()
        return f"value {value}"

    def in_f64(self) -> tuple[float, torch.Tensor]:
        """An item at a time: f64 takes room."""
        gradients, values = [], []
        n = self.logits.shape[0]
        for logits, y in zip(self.logits.split(1), self.y.split(1)):
            exact = logits.double().requires_grad_()
            value = dscpp(exact, y.double()) / n
            value.backward()
            values.append(value.item())
            gradients.append(exact.grad.float())
        return sum(values), torch.cat(gradients)

    def distance(self, file: str) -> str:
        found = torch.from_numpy(np.fromfile(file, dtype="<f4")).to(DEVICE).reshape(self.exact.shape)
        return f"json {json.dumps(relative(found, self.exact))}"

    def drop(self) -> None:
        self.ready, self.compiled = {}, {}
        # It takes eight kinds of input a function, and then no longer compiles.
        torch.compiler.reset()
        for name in ["logits", "labels", "y", "exact", "leaf"]:
            if hasattr(self, name):
                delattr(self, name)

    def start(self) -> None:
        self.ready = {}
        self.leaf = self.logits.detach().clone().requires_grad_()

    def run(self, contestant: str) -> Callable[[], object]:
        """`eager`, `compile`; then `labels` instead of a one-hot target; then `graph`."""
        if contestant not in self.ready:
            how, target, graph = contestant.split("-")
            loss = dscpp if target == "onehot" else dscpp_of_labels
            truth = self.y if target == "onehot" else self.labels

            def of(logits: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
                # The probabilities in f32, as autocast has them: sums of bf16 would be another loss.
                return loss(logits.float(), truth)

            if how == "compile":
                # Once for both ways of launching.
                of = self.compiled.setdefault(target, torch.compile(of, dynamic=False))

            def run() -> tuple[torch.Tensor, torch.Tensor]:
                self.leaf.grad = None
                value = of(self.leaf, truth)
                value.backward()
                return value.detach(), self.leaf.grad

            self.ready[contestant] = captured(run) if graph == "graph" else run
        return self.ready[contestant]

    def check(self, contestant: str) -> str:
        value, gradient = self.run(contestant)()
        distance = relative(gradient.float(), self.exact)
        return f"json {json.dumps({'value': value.item(), 'distance': distance})}"


def relative(found: torch.Tensor, exact: torch.Tensor) -> float:
    apart, whole = ((found - exact).double().norm(), exact.double().norm())
    return (apart / whole).item()


# The step.


class Step:
    """The network with its optimiser, a batch, and the contestants on them."""

    def __init__(self, folder: Path, precision_name: str, layout: str) -> None:
        precision(precision_name)
        self.precision = precision_name
        given = read(folder / "input.safetensors")
        net = UNet(read(folder / "weights.safetensors"), given["norm_eps"].item())
        self.net = net.to(DEVICE, memory_format=FORMATS[layout])
        self.image = given["image"].to(DEVICE).contiguous(memory_format=FORMATS[layout])
        one_hot = functional.one_hot(given["labels"].long(), self.net.head.out_channels).movedim(-1, 1)
        self.y = one_hot.to(DEVICE, torch.float32).contiguous(memory_format=FORMATS[layout])
        self.sgd = torch.optim.SGD(
            self.net.parameters(),
            lr=given["lr"].item(),
            momentum=given["momentum"].item(),
            nesterov=True,
            fused=True,
        )
        self.ready: dict[str, Callable[[], object]] = {}
        self.compiled: dict[str, Callable[..., torch.Tensor]] = {}

    def loss(self, image: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        cast = torch.autocast(DEVICE.type, torch.bfloat16) if self.precision == "bf16" else contextlib.nullcontext()
        with cast:
            logits = self.net(image)
        return dscpp(logits.float(), y)

    def run(self, contestant: str) -> Callable[[], object]:
        """`eager`, `eager-graph`, `compile`, `compile-graph` or `overhead`, the compiler's own graphs."""
        if contestant not in self.ready:
            how, _, graph = contestant.partition("-")
            loss = self.loss
            if how != "eager":
                mode = "reduce-overhead" if how == "overhead" else None
                loss = self.compiled.setdefault(how, torch.compile(self.loss, dynamic=False, mode=mode))

            def run() -> torch.Tensor:
                if how == "overhead":
                    torch.compiler.cudagraph_mark_step_begin()
                self.sgd.zero_grad(set_to_none=True)
                value = loss(self.image, self.y)
                value.backward()
                self.sgd.step()
                return value.detach()

            self.ready[contestant] = captured(run) if graph else run
        return self.ready[contestant]

    def losses(self, count: str) -> str:
        run = self.run("eager")
        return "values " + " ".join(str(run().item()) for _ in range(int(count)))


# The layers.


class Layer:
    """One convolution of 3x3, forward and its two gradients, each alone."""

    def __init__(self, n: int, inputs: int, outputs: int, size: int, dtype: str, layout: str) -> None:
        precision(dtype)

        def drawn(*shape: int) -> torch.Tensor:
            made = torch.randn(*shape, device=DEVICE, dtype=DTYPES[dtype])
            return made.contiguous(memory_format=FORMATS[layout])

        self.x, self.w = drawn(n, inputs, size, size), drawn(outputs, inputs, 3, 3)
        self.g = drawn(n, outputs, size, size)

    def backward(self, mask: list[bool]) -> object:
        return torch.ops.aten.convolution_backward(
            self.g, self.x, self.w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask
        )

    def run(self, contestant: str) -> Callable[[], object]:
        return {
            "forward": lambda: functional.conv2d(self.x, self.w, padding=1),
            "input": lambda: self.backward([True, False, False]),
            "weight": lambda: self.backward([False, True, False]),
        }[contestant]


class Product:
    """A square matrix product: the most that the matrix units give."""

    def __init__(self, size: int, dtype: str) -> None:
        precision(dtype)
        self.a, self.b = (torch.randn(size, size, device=DEVICE, dtype=DTYPES[dtype]) for _ in range(2))

    def run(self, _contestant: str) -> Callable[[], object]:
        return lambda: self.a @ self.b


class Copy:
    """A copy within the device's memory."""

    def __init__(self, mib: int) -> None:
        self.a, self.b = (torch.ones(mib << 20, dtype=torch.uint8, device=DEVICE) for _ in range(2))

    def run(self, _contestant: str) -> Callable[[], object]:
        return lambda: self.b.copy_(self.a)


# The orders.


class Worker:
    """What is loaded, and the orders."""

    def __init__(self) -> None:
        self.losses_of = Losses()
        self.loaded: object = None
        self.before = 0

    def versions(self) -> str:
        name = torch.cuda.get_device_name() if CUDA else "no GPU: PyTorch on the CPU"
        found = {"device": name, "torch": torch.__version__, "cudnn": torch.backends.cudnn.version(), "graphs": CUDA}
        return f"json {json.dumps(found)}"

    def forget(self) -> str:
        self.loaded = None
        self.losses_of.drop()
        torch.compiler.reset()
        gc.collect()
        if CUDA:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        return "forgotten"

    def copy(self, mib: str) -> str:
        self.loaded = Copy(int(mib))
        return "loaded"

    def loss(self, _dtype: str) -> str:
        self.losses_of.start()
        self.loaded = self.losses_of
        return "loaded"

    def step(self, folder: str, precision_name: str, layout: str) -> str:
        self.forget()
        self.before = used()
        self.loaded = Step(Path(folder), precision_name, layout)
        return "loaded"

    def losses(self, count: str) -> str:
        return self.loaded.losses(count)

    def layer(self, *words: str) -> str:
        *sizes, dtype, layout = words
        self.loaded = Layer(*map(int, sizes), dtype, layout)
        return "loaded"

    def product(self, size: str, dtype: str) -> str:
        self.loaded = Product(int(size), dtype)
        return "loaded"

    def check(self, contestant: str) -> str:
        return self.loaded.check(contestant)

    def memory(self, contestant: str) -> str:
        """Network, optimiser, batch and three steps; what the allocator handed out at most, and took of the device."""
        run = self.loaded.run(contestant)
        for _ in range(3):
            run()
        peak = torch.cuda.max_memory_allocated() if CUDA else 0
        found = {"allocated_mib": peak / 2**20, "device_mib": (used() - self.before) / 2**20}
        return f"json {json.dumps(found)}"

    def time(self, contestant: str, count: str) -> str:
        return blocks(self.loaded.run(contestant), int(count))

    def serve(self) -> None:
        orders = ["versions", "forget", "copy", "loss", "step", "losses", "layer", "product", "check", "memory", "time"]
        answers = {name: getattr(self, name) for name in orders}
        answers |= {"data": self.losses_of.data, "distance": self.losses_of.distance}
        serve(1, answers)


def warm(shapes: str, steps: str) -> None:
    """Compiles what will be asked for; the compiler's cache on disk keeps it. What fails here will say so there."""
    import tempfile

    worker = Worker()
    for item in filter(None, steps.split(",")):
        folder, precision_name = item.split(":")
        with contextlib.suppress(Exception):
            worker.step(folder, precision_name, "nhwc")
            worker.loaded.run("compile")()
    for item in filter(None, shapes.split(",")):
        shape, dtype = item.split(":")
        with tempfile.TemporaryDirectory() as folder, contextlib.suppress(Exception):
            worker.losses_of.data(folder, shape, dtype)
            worker.loss(dtype)
            for contestant in ["compile-onehot-plain", "compile-labels-plain"]:
                worker.losses_of.run(contestant)()
    if CUDA:
        torch.cuda.synchronize()


def main() -> None:
    torch.backends.cudnn.benchmark = True
    match sys.argv[1:]:
        case ["worker"]:
            Worker().serve()
        case ["warm", shapes, steps]:
            warm(shapes, steps)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main()
