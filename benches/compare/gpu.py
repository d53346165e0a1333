#!/usr/bin/env python3
"""The tests and comparisons on a GPU: parity, loss, training step, convolutions, trainings. benches/gpu.sh starts it.

    gpu.py PART --bin DIR --out DIR [--seconds S] [--smoke] [--quick]

A part is `parity`, `loss`, `step`, `layers`, `training` or `gammas`, or `warm`, which compiles what PyTorch needs for `loss`
and `step` beforehand. DIR holds our programs, `parity`, `gpu` and `seg-train`. PyTorch is that of the Python that runs
this. Ours and PyTorch's have a process each on the same GPU; in each round each has a turn, while
the others are stopped (turns.py). Times are taken by the GPU's events, over blocks of iterations of some milliseconds.

Before anything is timed, both have to compute the same. What does not is not compared, and the table says so.

Every row is appended to results.jsonl in the output folder as soon as it is there, and the table to tables.md. After S
seconds no further row is begun. --smoke takes tiny sizes, on a CPU if there is no GPU: it tries the scripts, and its
numbers mean nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

from turns import HERE, ORDINARY, Failure, Plan, Refusal, Turn, Worker, cores, interleave, ratio, say, walls

PARTS = ["parity", "loss", "step", "layers", "training", "gammas", "warm"]
#: Larger than the cache of any GPU there is, both of them in f32 and bf16.
VOLUMES = ["2x4x128x128x128", "2x4x160x160x160"]
BESIDE = ["8x2x512x512"]
COPY_SHARE, OVER_EAGER, OVER_COMPILE = 0.70, 5.0, 1.5
STEP_RATIO = 0.8
TRAINING_S = 90
#: Of the loss from that of f64, relative; of the loss's gradient, relative L2.
VALUE_LIMIT = {"f32": 1e-5, "bf16": 1e-4}
GRADIENT_LIMIT = {"f32": 1e-5, "bf16": 1e-2}
#: Of a step's first loss from PyTorch's, relative.
STEP_LIMIT = {"f32": 1e-5, "tf32": 1e-3, "bf16": 1e-2}
#: A plan, which is a CUDA graph here, is of f32.
LOSS_OURS = {"f32": ["planned", "call"], "bf16": ["call"]}
LOSS_PEERS = [
    f"{how}-{target}-{launch}"
    for how in ["eager", "compile"]
    for target in ["onehot", "labels"]
    for launch in ["plain", "graph"]
]
STEP_PEERS = [
    ("nhwc", "eager"),
    ("nhwc", "eager-graph"),
    ("nhwc", "compile"),
    ("nhwc", "compile-graph"),
    ("nhwc", "overhead"),
    ("nchw", "eager"),
    ("nchw", "eager-graph"),
]
DIRECTIONS = ["forward", "input", "weight"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--bin", type=Path, required=True, metavar="DIR", help="our programs")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results go")
    parser.add_argument("--libraries", default="", metavar="PATHS", help="LD_LIBRARY_PATH of our programs")
    parser.add_argument("--seconds", type=float, default=600, metavar="S", help="no row is begun after this")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: tries the scripts, measures nothing")
    parser.add_argument("--quick", action="store_true", help="fewer sizes and rounds")
    # So that the workers, which may be stopped, end with this one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped: its time was over"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    parts = [Parity, Losses, Steps, Layers, Trainings, Gammas, Warm]
    try:
        sys.exit(dict(zip(PARTS, parts))[options.part](options).run())
    except Failure as failure:
        sys.exit(f"error: {failure}")


# What all parts do.


class Part:
    """Rows, which are written as they come, and the table of them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.ends = time.monotonic() + options.seconds
        self.rows: list[dict[str, object]] = []
        self.left_out: list[str] = []
        self.notes: list[str] = []

    def run(self) -> int:
        """The exit code: 1 if there is no row."""
        try:
            self.measure()
        finally:
            self.deliver()
        return 0 if self.rows else 1

    def measure(self) -> None:
        raise NotImplementedError

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        """Title, heads and cells."""
        raise NotImplementedError

    def add(self, row: dict[str, object]) -> None:
        self.rows.append(row)
        with (self.options.out / "results.jsonl").open("a") as file:
            file.write(json.dumps({"part": self.options.part, "smoke": self.options.smoke} | row) + "\n")

    def has_time(self, name: str, needed: float = 0) -> bool:
        if time.monotonic() + needed < self.ends:
            return True
        self.leave_out(name, "no time was left")
        return False

    def try_row(self, name: str, row: Callable[[], None]) -> None:
        """A row that fails does not stop the others."""
        try:
            row()
        except (Failure, Refusal) as failure:
            self.leave_out(name, str(failure))

    def leave_out(self, name: str, reason: str) -> None:
        say(f"{name}: left out: {reason}")
        self.left_out.append(f"{name}: left out, {reason}")

    def deliver(self) -> None:
        title, heads, cells = self.table()
        lines = ["", f"## {title}", ""]
        if self.options.smoke and not isinstance(self, Parity):
            lines += ["Tiny sizes, to try the scripts: these numbers mean nothing.", ""]
        lines += [row_of(heads), row_of(["---"] * len(heads))] + [row_of(row) for row in cells]
        lines += [f"\n{note}" for note in self.notes + self.left_out] + [""]
        text = "\n".join(lines)
        print(text, flush=True)
        with (self.options.out / "tables.md").open("a") as file:
            file.write(text + "\n")

    def ours(self) -> Worker:
        command = ["env", f"LD_LIBRARY_PATH={self.options.libraries}", self.options.bin / "gpu"]
        return Worker(command, ORDINARY, cores())

    def torch(self) -> Worker:
        return Worker([sys.executable, HERE / "gpu_peer.py", "worker"], ORDINARY, cores())

    def head(self, ours: Worker, torch: Worker) -> None:
        theirs = torch.order("versions")
        self.graphs = json.loads(theirs)["graphs"]
        self.notes.append(f"Ours: {told(ours.order('versions'))}. PyTorch: {told(theirs)}.")

    def judged(self, value: float | None, limit: float, at_most: bool = False) -> str:
        """Whether a target is met; of tiny sizes nothing is said."""
        if value is None or self.options.smoke:
            return "–"
        # Not `not`: a NaN passes nothing.
        return "PASS" if (value <= limit if at_most else value >= limit) else "below"

    def plan(self) -> Plan:
        if self.options.smoke:
            return Plan(rounds=1, turn_s=0.001, most=2)
        if self.options.quick:
            return Plan(rounds=3, turn_s=0.03, most=6)
        return Plan(rounds=6, turn_s=0.06, most=12)


def told(answer: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(answer).items())


def row_of(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def micros(ms: float | None) -> str:
    return "–" if ms is None else f"{ms * 1e3:.1f}"


def millis(ms: float | None) -> str:
    return "–" if ms is None else f"{ms:.3f}"


def median(worker: Worker, subject: str, count: int) -> float:
    return statistics.median(float(word) for word in worker.order("time", subject, str(count)).split())


def medians(rounds: dict[str, dict[str, list]]) -> dict[str, float]:
    return {name: statistics.median(walls(own[ORDINARY])) for name, own in rounds.items()}


def best(times: dict[str, float], start: str) -> tuple[str, float | None]:
    """The fastest of those whose name begins so."""
    found = {name: ms for name, ms in times.items() if name.startswith(start)}
    name = min(found, key=lambda name: found[name], default="")
    return name, found.get(name)


def over(a: float | None, b: float | None) -> float | None:
    return a / b if a is not None and b is not None else None


def number(value: float | None) -> str:
    return "–" if value is None else ratio(value)


# The loss.


class Losses(Part):
    def measure(self) -> None:
        smoke = self.options.smoke
        volumes, beside = (["1x4x8x8x8"], ["2x2x16x16"]) if smoke else (VOLUMES, BESIDE)
        if self.options.quick:
            volumes = volumes[:1]
        with self.ours() as ours, self.torch() as torch:
            self.head(ours, torch)
            copy = self.copied(ours, torch, 1 if smoke else 2048)
            for shape in volumes + beside:
                for dtype in ["f32", "bf16"]:
                    name = f"{shape} {dtype}"
                    if self.has_time(name):
                        self.try_row(name, lambda: self.one(shape, dtype, shape in volumes, copy, ours, torch))

    def copied(self, ours: Worker, torch: Worker, mib: int) -> float:
        """GB/s, read and written: the better of what the two measure."""
        found = {}
        for name, worker in [("ours", ours), ("PyTorch", torch)]:
            worker.order("copy", str(mib))
            found[name] = 2 * mib * 2**20 / median(worker, "copy", 15) / 1e6
            worker.order("forget")
        both = ", ".join(f"{name} {rate:.0f}" for name, rate in found.items())
        self.notes.append(f"A copy of {mib} MiB within the device's memory, GB/s read and written: {both}.")
        self.add({"copy_gb_s": found})
        return max(found.values())

    def one(self, shape: str, dtype: str, counts: bool, copy: float, ours: Worker, torch: Worker) -> None:
        name = f"{shape} {dtype}"
        row: dict[str, object] = {"shape": shape, "dtype": dtype, "counts": counts}
        with tempfile.TemporaryDirectory(prefix="gpu-loss-") as folder:
            exact = float(torch.order("data", folder, shape, dtype))
            bytes_ = int(ours.order("loss", folder, shape, dtype))
            checks = {}
            for contestant in LOSS_OURS[dtype]:
                file = str(Path(folder) / "ours.grad")
                value = float(ours.order("write", contestant, file))
                checks[contestant] = {"value": value, "distance": json.loads(torch.order("distance", file))}
            torch.order("loss", dtype)
        for contestant in LOSS_PEERS:
            if contestant.endswith("graph") and not self.graphs:
                continue
            try:
                checks[contestant] = json.loads(torch.ask("check", contestant))
            except Refusal as refusal:
                self.leave_out(f"{name} {contestant}", str(refusal))
        turns = []
        for contestant, of in checks.items():
            value_off = abs(of["value"] - exact) / abs(exact)
            if value_off <= VALUE_LIMIT[dtype] and of["distance"] <= GRADIENT_LIMIT[dtype]:
                turns.append(Turn(contestant, ours if contestant in LOSS_OURS[dtype] else torch, contestant))
            else:
                self.leave_out(
                    f"{name} {contestant}",
                    f"the loss is {value_off:.1e} from that of f64 and the gradient {of['distance']:.1e} (relative)",
                )
        times = medians(interleave(name, turns, self.plan()))
        eager, eager_ms = best(times, "eager")
        compiled, compiled_ms = best(times, "compile")
        which, own = best({name: ms for name, ms in times.items() if name in LOSS_OURS[dtype]}, "")
        rate = over(bytes_, own)
        row |= {
            "bytes": bytes_,
            "ms": times,
            "gb_s": rate and rate / 1e6,
            "share_of_copy": over(rate and rate / 1e6, copy),
            "ours": which,
            "eager": eager,
            "compile": compiled,
            "over_eager": over(eager_ms, own),
            "over_compile": over(compiled_ms, own),
            "checks": checks,
            "exact": exact,
        }
        self.add(row)
        ours.order("forget")
        torch.order("forget")

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        heads = ["shape", "dtype", "planned, µs", "call, µs", "GB/s", "of the copy", f"≥ {COPY_SHARE}"]
        heads += ["eager, µs", "ratio", f"≥ {OVER_EAGER:g}", "compile, µs", "ratio", f"≥ {OVER_COMPILE:g}"]
        heads += ["loss from f64", "gradient from f64"]
        cells = []
        for row in self.rows:
            if "shape" not in row:
                continue
            times = row["ms"]

            def judged(key: str, limit: float) -> list[str]:
                return [number(row[key]), self.judged(row[key], limit) if row["counts"] else "–"]

            line = [row["shape"], row["dtype"], micros(times.get("planned")), micros(times.get("call"))]
            line += ["–" if row["gb_s"] is None else f"{row['gb_s']:.0f}", *judged("share_of_copy", COPY_SHARE)]
            for key, start, limit in [("over_eager", "eager", OVER_EAGER), ("over_compile", "compile", OVER_COMPILE)]:
                which = row[start]
                line += [f"{micros(times.get(which))} {which.removeprefix(start + '-')}", *judged(key, limit)]
            check = row["checks"]["call"]
            line += [f"{abs(check['value'] - row['exact']) / abs(row['exact']):.0e}", f"{check['distance']:.0e}"]
            cells.append(line)
        self.notes.append(
            "DSC++ with γ = 2, loss and gradient from logits. Ours, on u8 labels: *planned*, as a CUDA graph, of f32 alone; "
            "*call*, `value_and_grad` as it stands. The faster counts. PyTorch's is the fastest of one-hot target or labels, plain or as a CUDA graph. GB/s: logits and labels "
            "read twice, the gradient written once. Targets hold for tensors larger than the cache."
        )
        return "The loss", heads, cells


# The step.


class Steps(Part):
    def measure(self) -> None:
        sizes = [32] if self.options.smoke else [512] if self.options.quick else [512, 256]
        batches = [1, 2] if self.options.smoke else [1, 8]
        configurations = [(s, b, p) for s in sizes for p in ["bf16", "tf32", "f32"] for b in batches]
        with self.ours() as ours, self.torch() as nhwc, self.torch() as nchw:
            self.head(ours, nhwc)
            for size, batch, precision in configurations:
                name = f"{size}² × {batch} {precision}"
                if self.has_time(name, 0 if self.options.smoke else 5):
                    workers = {"nhwc": nhwc, "nchw": nchw}
                    self.try_row(name, lambda: self.one(name, size, batch, precision, ours, workers))

    def one(self, name: str, size: int, batch: int, precision: str, ours: Worker, torch: dict[str, Worker]) -> None:
        row: dict[str, object] = {"size": size, "batch": batch, "precision": precision}
        with tempfile.TemporaryDirectory(prefix="gpu-step-") as folder:
            ours.order("step", str(size), str(batch), "0", precision)
            ours.order("save", folder)
            for layout, worker in torch.items():
                worker.order("step", folder, precision, layout)
        first = {
            name: [float(word) for word in worker.order("losses", "10").split()]
            for name, worker in [("ours", ours), ("torch", torch["nhwc"])]
        }
        memory = {
            "ours": json.loads(ours.order("memory")),
            "torch": json.loads(torch["nhwc"].order("memory", "eager")),
        }
        off = abs(first["ours"][0] - first["torch"][0]) / abs(first["torch"][0])
        row |= {"losses": first, "loss_off": off, "memory": memory}
        turns = []
        if off <= STEP_LIMIT[precision]:
            turns.append(Turn("ours", ours, "step"))
        else:
            self.leave_out(f"{name} ours", f"its first loss is {off:.1e} from PyTorch's (relative)")
        for layout, how in STEP_PEERS:
            if how.endswith("graph") and not self.graphs:
                continue
            # Compiling takes long: the last to be tried, and the compiler's own graphs only where they matter most.
            if how == "overhead" and precision != "bf16":
                continue
            if how in ["compile", "overhead"] and not self.has_time(f"{name} {how}", 0 if self.options.smoke else 25):
                continue
            if how == "compile-graph" and f"{layout} compile" not in [turn.contestant for turn in turns]:
                continue
            try:
                torch[layout].ask("time", how, "1")
                turns.append(Turn(f"{layout} {how}", torch[layout], how))
            except Refusal as refusal:
                self.leave_out(f"{name} {layout} {how}", str(refusal))
        times = medians(interleave(name, turns, self.plan()))
        peers = {contestant: ms for contestant, ms in times.items() if contestant != "ours"}
        which, peer_ms = best(peers, "")
        row |= {"ms": times, "torch": which, "ratio": over(times.get("ours"), peer_ms)}
        self.add(row)
        for worker in [ours, *torch.values()]:
            worker.order("forget")

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        heads = ["size", "batch", "precision", "ours, ms", "PyTorch, ms", "which", "**ratio**", f"≤ {STEP_RATIO}"]
        heads += ["eager, ms", "compile, ms", "ours, MiB", "PyTorch, MiB (allocated)", "first loss apart", "tenth apart"]
        cells = []
        for row in self.rows:
            times, memory, losses = row["ms"], row["memory"], row["losses"]
            last = abs(losses["ours"][-1] - losses["torch"][-1]) / abs(losses["torch"][-1])
            line = [f"{row['size']}²", str(row["batch"]), row["precision"], millis(times.get("ours"))]
            line += [millis(times.get(row["torch"])), row["torch"], f"**{number(row['ratio'])}**"]
            line += [self.judged(row["ratio"], STEP_RATIO, at_most=True)]
            line += [millis(times.get("nhwc eager")), millis(times.get("nhwc compile"))]
            line += [f"{memory['ours']['device_mib']:.0f}"]
            line += [f"{memory['torch']['device_mib']:.0f} ({memory['torch']['allocated_mib']:.0f})"]
            cells.append([*line, f"{row['loss_off']:.0e}", f"{last:.0e}"])
        self.notes.append(
            "Forward, DSC++ with γ = 2, backward, SGD with Nesterov's momentum; width 32, depth 4. A ratio is ours over "
            "PyTorch's fastest: eager or compiled, as a CUDA graph or not, channels last or first, cudnn.benchmark on, "
            "the fused optimiser, bf16 by autocast. MiB: what the device has given after the first steps; PyTorch's "
            "eager, and its allocator's peak."
        )
        return "The training step", heads, cells


# The convolutions.


@dataclass
class Convolution:
    """One of the network's."""

    name: str
    inputs: int
    outputs: int
    size: int

    def flops(self, batch: int) -> float:
        return 2.0 * batch * self.size**2 * 9 * self.inputs * self.outputs


def network(size: int, width: int = 32, depth: int = 4) -> Iterator[Convolution]:
    """The convolutions of 3x3 of the paper's network, from the image on."""
    inputs = 1
    for level in range(depth + 1):
        outputs, side = width << level, size >> level
        name = "mid" if level == depth else f"enc{level}"
        yield Convolution(f"{name}.conv1", inputs, outputs, side)
        yield Convolution(f"{name}.conv2", outputs, outputs, side)
        inputs = outputs
    for level in reversed(range(depth)):
        outputs, side = width << level, size >> level
        yield Convolution(f"dec{level}.conv1", 2 * outputs, outputs, side)
        yield Convolution(f"dec{level}.conv2", outputs, outputs, side)


class Layers(Part):
    def measure(self) -> None:
        smoke = self.options.smoke
        size, count = (16, 1) if smoke else (512, 5)
        batches = [1] if smoke else [8] if self.options.quick else [8, 1]
        with self.ours() as ours, self.torch() as torch:
            self.head(ours, torch)
            peaks = {}
            for precision in ["bf16", "tf32"]:
                side = 64 if smoke else 8192
                torch.order("product", str(side), precision)
                peaks[precision] = 2 * side**3 / median(torch, "product", count) / 1e9
            torch.order("forget")
            found = ", ".join(f"{name} {rate:.0f}" for name, rate in peaks.items())
            self.notes.append(f"The peak, TFLOP/s of a square product by PyTorch: {found}.")
            self.add({"peak_tflops": peaks})
            for batch in batches:
                for precision in ["bf16", "tf32"]:
                    for layer in network(size, *((4, 2) if smoke else ())):
                        if self.has_time(f"{layer.name} × {batch} {precision}"):
                            self.one(layer, batch, precision, peaks[precision], count, ours, torch)

    def one(
        self, layer: Convolution, batch: int, precision: str, peak: float, count: int, ours: Worker, torch: Worker
    ) -> None:
        words = ["layer", *map(str, [batch, layer.inputs, layer.outputs, layer.size]), precision]
        row: dict[str, object] = {"layer": layer.name, "batch": batch, "precision": precision}
        row |= {"inputs": layer.inputs, "outputs": layer.outputs, "size": layer.size}
        directions = [d for d in DIRECTIONS if d != "input" or layer.inputs > 1]  # nobody needs the gradient to the image
        times: dict[str, dict[str, float]] = {direction: {} for direction in directions}
        for layout in ["nhwc", "nchw"] if precision == "tf32" else ["nhwc"]:
            torch.order(*words, layout)
            for direction, own in times.items():
                ms = median(torch, direction, count)
                own["torch"] = min(ms, own.get("torch", ms))
        try:
            ours.ask(*words)
            for direction, own in times.items():
                own["ours"] = median(ours, direction, count)
        except Refusal as refusal:
            self.leave_out(f"{layer.name} × {batch} {precision} ours", str(refusal))
        tflops = {direction: over(layer.flops(batch) / 1e9, own.get("ours")) for direction, own in times.items()}
        row |= {"ms": times, "tflops": tflops, "share": {key: over(rate, peak) for key, rate in tflops.items()}}
        self.add(row)

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        heads = ["layer", "batch", "precision"]
        for direction in DIRECTIONS:
            heads += [f"{direction}, µs", "TFLOP/s", "of the peak", "cuDNN, µs", "ratio"]
        cells, sums = [], {}
        for row in self.rows:
            if "layer" not in row:
                continue
            shape = f"{row['layer']} {row['inputs']}→{row['outputs']} @ {row['size']}²"
            line = [shape, str(row["batch"]), row["precision"]]
            for direction in DIRECTIONS:
                own = row["ms"].get(direction)
                if own is None:
                    line += ["–"] * 5
                    continue
                rate, share = row["tflops"][direction], row["share"][direction]
                line += [micros(own.get("ours")), "–" if rate is None else f"{rate:.0f}", number(share)]
                line += [micros(own["torch"]), number(over(own.get("ours"), own["torch"]))]
                if "ours" in own:
                    total = sums.setdefault((row["batch"], row["precision"]), {}).setdefault(direction, [0.0, 0.0])
                    total[0] += own["ours"]
                    total[1] += own["torch"]
            cells.append(line)
        for (batch, precision), of in sums.items():
            line = ["**all**", str(batch), precision]
            for direction in DIRECTIONS:
                a, b = of.get(direction, (None, None))
                line += [micros(a), "", "", micros(b), f"**{number(over(a, b))}**"]
            cells.append(line)
        self.notes.append(
            "Convolutions of 3x3, each alone: forward, gradient to the input, gradient to the weight. A ratio is ours "
            "over cuDNN's through PyTorch (cudnn.benchmark, channels last, for TF32 the better of both layouts). Where it "
            "is above 1, cuDNN would be the better choice. Ours is the engine's own call, with what it fuses."
        )
        return "The convolutions", heads, cells


# Our programs.


class Program(Part):
    """What runs a program of ours to its end."""

    def execute(
        self, program: str, words: list[str], limit: float, variables: dict[str, str] | None = None
    ) -> tuple[float, str, str]:
        """Seconds, what it printed, and why it failed."""
        command = [str(self.options.bin / program), *words]
        environment = os.environ | {"LD_LIBRARY_PATH": self.options.libraries} | (variables or {})
        start = time.monotonic()
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        failed = ""
        try:
            output, _ = process.communicate(timeout=max(1.0, limit))
        except subprocess.TimeoutExpired:
            failed = f"it was not done after {limit:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        finally:
            # Whatever it has started, too.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        seconds = time.monotonic() - start
        if process.returncode != 0:
            say(output)
            failed = failed or (output.strip().splitlines() or ["no word"])[-1]
        return seconds, output, failed


class Parity(Program):
    """The tests of every operation against the CPU."""

    def measure(self) -> None:
        # A few at a time: they share the GPU with each other.
        words = ["--test-threads", str(min(4, cores()))]
        carried = {"SEG_TRAIN": str((self.options.bin / "seg-train").resolve())}
        self.seconds, output, self.failed = self.execute("parity", words, self.options.seconds, carried)
        for name, result in re.findall(r"^test (\S+) \.\.\. (ok|FAILED|ignored)", output, re.MULTILINE):
            self.add({"test": name, "result": result})
        (self.options.out / "parity.txt").write_text(output)

    def run(self) -> int:
        return max(super().run(), 1 if self.failed else 0)

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        results = ["ok", "FAILED", "ignored"]
        counts: dict[str, list[int]] = {}
        for row in self.rows:
            module = row["test"].rpartition("::")[0] or "–"
            counts.setdefault(module, [0, 0, 0])[results.index(row["result"])] += 1
        cells = [[module, *map(str, of), "FAILED" if of[1] else "PASS"] for module, of in counts.items()]
        all_of = [sum(of[i] for of in counts.values()) for i in range(3)]
        cells.append(["**all**", *map(str, all_of), "FAILED" if self.failed else "PASS"])
        self.notes += [f"{row['test']} FAILED (parity.txt)" for row in self.rows if row["result"] == "FAILED"]
        self.notes.append(f"{self.seconds:.0f} s. {self.failed}")
        return "Parity with the CPU", ["module", "passed", "failed", "ignored", ""], cells


class Seg(Program):
    """What trains."""

    def train(self, words: list[str], share: float = 1) -> tuple[float, str]:
        """Seconds, and why it failed; it has this share of the time that is left."""
        seconds, _, failed = self.execute("seg-train", words, share * (self.ends - time.monotonic()))
        return seconds, failed

    def sizes(self, images: int) -> list[str]:
        """The paper's network on phantoms, and no early end."""
        side, width, depth = (16, 4, 2) if self.options.smoke else (512, 32, 4)
        settings = [f"unet.width={width}", f"unet.depth={depth}", f"data.phantom.train={images}"]
        settings += ["data.phantom.val=4", "data.phantom.test=4", "recipe.batch=1"]
        settings += ["recipe.stopping.patience=100000", f"preprocess.size=[{side},{side}]"]
        return [word for setting in settings for word in ["--set", setting]]

    def images(self) -> int:
        return 2 if self.options.smoke else 16


class Trainings(Seg):
    def measure(self) -> None:
        epochs = 1 if self.options.smoke else 20 if self.options.quick else 200
        for precision in ["bf16", "tf32"]:
            if not self.has_time(precision):
                continue
            with tempfile.TemporaryDirectory(prefix="gpu-training-") as folder:
                words = ["--loss", "dice++", "--device", "cuda", "--precision", precision, "--data", "phantom", "--preset", "paper"]
                words += ["--epochs", str(epochs), "--out", str(Path(folder) / "run"), *self.sizes(self.images())]
                seconds, failed = self.train(words, 0.6 if precision == "bf16" else 1)
            if failed:
                self.leave_out(precision, failed)
                continue
            self.add({"precision": precision, "epochs": epochs, "images": self.images(), "seconds": seconds})

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        heads = ["precision", "images", "epochs", "seconds", f"< {TRAINING_S} s", "ms a step, all counted"]
        cells = []
        for row in self.rows:
            steps = row["epochs"] * row["images"]
            met = self.judged(row["seconds"], TRAINING_S, at_most=True) if row["epochs"] == 200 else "–"
            line = [row["precision"], str(row["images"]), str(row["epochs"]), f"{row['seconds']:.1f}", met]
            cells.append([*line, f"{row['seconds'] * 1e3 / steps:.2f}"])
        self.notes.append(
            "`seg-train` from its start to its end: 512², batch 1, validation after every epoch, evaluation and "
            "pictures included."
        )
        return "A full training", heads, cells


class Gammas(Seg):
    """Table III's ten losses on phantoms."""

    LOSSES = ["dice++:gamma=0.5", "dice", "dice++:gamma=1.5", "dice++"]
    LOSSES += [f"dice++:gamma={gamma}" for gamma in ["2.5", "3", "3.5", "4", "4.5", "5"]]

    def measure(self) -> None:
        epochs = 1 if self.options.smoke else 5 if self.options.quick else 40
        losses = self.LOSSES[:2] if self.options.smoke else self.LOSSES
        for name, chosen, jobs in [("one", losses[3:4] or losses[:1], 1), ("side by side", losses, len(losses))]:
            if not self.has_time(name):
                continue
            with tempfile.TemporaryDirectory(prefix="gpu-gammas-") as folder:
                grid = Path(folder) / "gammas.toml"
                grid.write_text(
                    f'title = "The ten γ of Table III"\ndata = ["phantom"]\nlosses = {json.dumps(chosen)}\npreset = "paper"\n'
                )
                words = ["sweep", str(grid), "--device", "cuda", "--out", str(Path(folder) / "runs")]
                words += ["--jobs", str(jobs), "--set", f"recipe.epochs={epochs}", *self.sizes(self.images())]
                words += ["--precision", "bf16"]
                seconds, failed = self.train(words, 0.4 if jobs == 1 else 1)
            if failed:
                self.leave_out(name, failed)
                continue
            self.add({"name": name, "runs": len(chosen), "jobs": jobs, "epochs": epochs, "seconds": seconds})

    def table(self) -> tuple[str, list[str], list[list[str]]]:
        heads = ["what", "runs", "at a time", "epochs", "seconds", "ten one after the other, from one", "gain"]
        cells = []
        alone = next((row["seconds"] for row in self.rows if row["name"] == "one"), None)
        for row in self.rows:
            line = [row["name"], str(row["runs"]), str(row["jobs"]), str(row["epochs"]), f"{row['seconds']:.1f}"]
            if row["name"] == "one" or alone is None:
                line += ["–", "–"]
            else:
                after = alone * row["runs"]
                line += [f"{after:.1f}", number(after / row["seconds"])]
            cells.append(line)
        self.notes.append("bf16, 512², 16 images, batch 1; the whole grid with its report.")
        return "Ten γ side by side", heads, cells


# Beforehand.


class Warm(Part):
    """What PyTorch compiles, into its cache on disk."""

    def run(self) -> int:
        shapes = ["1x4x8x8x8"] if self.options.smoke else VOLUMES + BESIDE
        size, batches = (16, [1]) if self.options.smoke else (512, [1, 8])
        with contextlib.ExitStack() as started:
            steps = []
            with self.ours() as ours:
                for precision in ["bf16", "tf32", "f32"]:
                    for batch in batches:
                        folder = started.enter_context(tempfile.TemporaryDirectory(prefix="gpu-warm-"))
                        ours.order("step", str(size), str(batch), "0", precision)
                        ours.order("save", folder)
                        steps.append(f"{folder}:{precision}")
            losses = [f"{shape}:{dtype}" for shape in shapes for dtype in ["f32", "bf16"]]
            command = [sys.executable, HERE / "gpu_peer.py", "warm"]
            running = [
                started.enter_context(subprocess.Popen([*command, *words], stdout=subprocess.DEVNULL))
                for words in [(",".join(losses), ""), ("", ",".join(steps))]
            ]
            for process in running:
                started.callback(process.kill)
            return max(process.wait() for process in running)


if __name__ == "__main__":
    main()
