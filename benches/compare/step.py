#!/usr/bin/env python3
"""Times a training step and an inference of the paper's network beside PyTorch's.

    python3 benches/compare/step.py                          everything, some minutes
    python3 benches/compare/step.py --quick --sizes 128      fewer rounds, one size
    python3 benches/compare/step.py --json step.json --modes train
    python3 benches/compare/step.py --ours-only --sizes 256 512 1024

It starts with Python's standard library alone. The first time it makes a virtual environment (--env) and installs
PyTorch and NumPy in it with pip, some gigabytes.

The network is the paper's U-Net of width 32 and depth 4, for a grey image and two classes; the batch is one image, the
numbers are f32. Both sides have the same weights, image and labels, which ours makes from a seed and writes.

  train       forward, DSC++ with γ = 2 (ours reads u8 labels, PyTorch a one-hot target made beforehand), backward,
              SGD with Nesterov's momentum
  inference   forward and softmax, PyTorch's under torch.inference_mode()

PyTorch runs eagerly, with its default memory format, gradients set to None between steps, and ReLU in place. It runs
with OpenMP's ordinary waiting and with OMP_WAIT_POLICY=PASSIVE: the one of the better median counts. Each side has a
process of its own with a thread a core; in each round each has a turn, while the others are stopped (turns.py).

Before anything is timed both are compared with PyTorch in f64: the losses must be within 1e-5 of it (relative), and the
distances (relative L2) of the logits and of all gradients together are reported, the root of the mean square over
several seeds, since which inputs of a ReLU or a maximum fall the other way is chance. A loss that is not, or gradients
farther than 5e-2 from those of f64, end the program with code 1.

Every ratio is ours over PyTorch's: below 1, ours takes less. The memory is what the steps of a fresh process take at
their peak above what the process had just before the first: network, optimiser and inputs made, nothing run.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import statistics
import tempfile
from pathlib import Path

from turns import (
    HERE,
    ONE_POOL,
    ORDINARY,
    PASSIVE,
    Failure,
    Iteration,
    Plan,
    Turn,
    Worker,
    arguments,
    ask_python,
    best_setting,
    build,
    cores,
    deliver,
    environment,
    interleave,
    machine,
    ms,
    peers_versions,
    planned,
    quartiles,
    ratio,
    say,
    versions,
    walls,
)

SIZES = [128, 256, 512]
MODES = ["train", "inference"]
PACKAGES = ["torch", "numpy"]
#: The size whose pixel is the measure of `--ours-only`.
BASE = 256
#: From here on a computation in f64 takes long: one seed.
LARGE = 512
#: Steps of a fresh process, of which the peak is taken.
MEMORY_STEPS = 3
#: Of the losses from that of f64, relative.
LOSS_TOLERANCE = 1e-5
#: Of all gradients together from those of f64, relative L2: farther is another function, not another rounding.
GRADIENT_LIMIT = 5e-2
#: How many times PyTorch's distance from f64 ours may be.
DISTANCE_RATIO = 2


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--sizes", nargs="+", metavar="SIZE", default=SIZES, type=size,
        help="height and width of the image; default: " + " ".join(map(str, SIZES)),
    )  # fmt: skip
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES, help="default: both")
    parser.add_argument(
        "--seeds", type=int, metavar="N",
        help=f"of the weights whose distances are taken; default: 3, from {LARGE}² on 1, with --quick 1",
    )  # fmt: skip
    parser.add_argument(
        "--ours-only", action="store_true",
        help=f"our time a pixel, relative to that at {BASE}²; PyTorch is neither needed nor started",
    )  # fmt: skip
    options = parser.parse_args()
    if options.ours_only:
        deliver(options, measure_ours, report_ours)
    else:
        deliver(options, measure, report)


def size(text: str) -> int:
    if not text.isdecimal() or int(text) == 0 or int(text) % 16:
        raise argparse.ArgumentTypeError(f"expected a multiple of 16 (four times halved), found {text!r}")
    return int(text)


def plan_of(options: argparse.Namespace) -> Plan:
    return planned(options, Plan(rounds=6, turn_s=0.5), quick=Plan(rounds=2, turn_s=0.1))


# Beside PyTorch.


class Commands:
    """How the workers are started."""

    def __init__(self, binary: Path, python: Path) -> None:
        self.python = python
        self.threads = cores()
        self.of: dict[str, list[str | Path]] = {
            "ours": [binary],
            "torch": [python, HERE / "step_peer.py", "worker", str(self.threads)],
        }

    def start(self, contestant: str, setting: str) -> Worker:
        return Worker(self.of[contestant], setting, self.threads)


def measure(options: argparse.Namespace) -> dict[str, object]:
    plan = plan_of(options)
    if options.seeds is not None and options.seeds < 1:
        raise Failure(f"--seeds is at least 1, found {options.seeds}")
    python = environment(options.env, PACKAGES)
    commands = Commands(build("compare-step"), python)
    result: dict[str, object] = {
        "machine": machine(),
        "versions": peers_versions(python, PACKAGES) | versions(),
        "threads": commands.threads,
        "rounds": plan.rounds,
    }
    rows = []
    for side in dict.fromkeys(options.sizes):
        seeds = options.seeds or (1 if options.quick or side >= LARGE else 3)
        distances = agree(side, seeds, commands)
        with tempfile.TemporaryDirectory(prefix="compare-step-") as folder:
            with commands.start("ours", ONE_POOL) as ours:
                prepare(ours, side, 0, folder)
            for mode in options.modes:
                memory = {
                    contestant: peak_of(contestant, mode, side, folder, commands) for contestant in ["ours", "torch"]
                }
                row: dict[str, object] = {"mode": mode, "size": side}
                row |= times(mode, side, folder, commands, plan)
                row |= memory_of(memory) | distances_of(mode, distances)
                rows.append(row)
    return result | {"rows": rows}


def prepare(ours: Worker, side: int, seed: int, folder: str) -> None:
    """Writes what the other side reads."""
    ours.order("load", str(side), str(seed))
    ours.order("write", folder)


def load(worker: Worker, contestant: str, side: int, folder: str) -> None:
    if contestant == "ours":
        worker.order("load", str(side), "0")
    else:
        worker.order("load", folder)


def agree(side: int, seeds: int, commands: Commands) -> dict[str, dict[str, float]]:
    """The distances of both from f64, root mean square over the seeds, if both compute the same."""
    squares: dict[str, dict[str, list[float]]] = {"ours": {}, "torch": {}}
    for seed in range(seeds):
        say(f"{side}²: comparing loss, logits and gradients with f64, seed {seed + 1} of {seeds}")
        with tempfile.TemporaryDirectory(prefix="compare-step-") as folder:
            with commands.start("ours", ONE_POOL) as ours:
                prepare(ours, side, seed, folder)
                ours.order("compute", str(Path(folder) / "ours.safetensors"))
            found = ask_python(commands.python, "step_peer.py", "agree", folder, str(commands.threads))
        assert isinstance(found, dict)
        check(side, found)
        for contestant, of in squares.items():
            for name, value in found[contestant].items():
                of.setdefault(name, []).append(value**2)
    return {
        contestant: {name: math.sqrt(statistics.mean(own)) for name, own in of.items()}
        for contestant, of in squares.items()
    }


def check(side: int, found: dict[str, object]) -> None:
    exact = found["loss"]
    wrong = []
    for contestant in ["ours", "torch"]:
        own = found[contestant]
        assert isinstance(own, dict) and isinstance(exact, float)
        # Not `>`: a NaN has to fail.
        if not abs(own["loss"] - exact) <= LOSS_TOLERANCE * abs(exact):
            wrong.append(
                f"the loss of {contestant} is {own['loss']:.9}, that of f64 {exact:.9}: allowed are {LOSS_TOLERANCE} of it"
            )
        if not own["gradient_distance"] <= GRADIENT_LIMIT:
            wrong.append(
                f"the gradients of {contestant} are {own['gradient_distance']:.2e} (relative L2) from those of f64, "
                f"allowed is {GRADIENT_LIMIT}"
            )
    if wrong:
        raise Failure(
            f"at {side}² the two do not compute the same, so their times can't be compared:\n  " + "\n  ".join(wrong)
        )


def peak_of(contestant: str, mode: str, side: int, folder: str, commands: Commands) -> dict[str, float] | None:
    """MiB of a fresh process before its first step, and what its steps took above that at their peak."""
    say(f"{mode} {side}²: memory of {contestant}")
    with commands.start(contestant, ONE_POOL if contestant == "ours" else ORDINARY) as worker:
        load(worker, contestant, side, folder)
        answer = worker.order("memory", mode, str(MEMORY_STEPS))
    if answer == "unknown":
        return None
    before, peak = (int(kib) / 1024 for kib in answer.split())
    return {"before_mib": before, "above_mib": peak - before}


def memory_of(memory: dict[str, dict[str, float] | None]) -> dict[str, object]:
    ours, peer = memory["ours"], memory["torch"]
    known = ours is not None and peer is not None
    return {"memory_ratio": ours["above_mib"] / peer["above_mib"] if known else None, "memory": memory}


def times(mode: str, side: int, folder: str, commands: Commands, plan: Plan) -> dict[str, object]:
    with contextlib.ExitStack() as started:
        turns = []
        for contestant, setting in [("ours", ONE_POOL), ("torch", ORDINARY), ("torch", PASSIVE)]:
            worker = started.enter_context(commands.start(contestant, setting))
            load(worker, contestant, side, folder)
            turns.append(Turn(contestant, worker, mode))
        rounds = interleave(f"{mode} {side}²", turns, plan)
    best = {contestant: best_setting(of) for contestant, of in rounds.items()}
    ours, peer = (rounds[contestant][best[contestant]] for contestant in ["ours", "torch"])
    medians = {contestant: statistics.median(walls(own)) for contestant, own in [("ours", ours), ("torch", peer)]}
    cpus = {contestant: median_cpu(own) for contestant, own in [("ours", ours), ("torch", peer)]}
    known = cpus["ours"] is not None and cpus["torch"] is not None
    by_round = [median_of(a) / median_of(b) for a, b in zip(ours, peer)]
    return {
        "ours_ms": medians["ours"],
        "torch_ms": medians["torch"],
        "ratio": medians["ours"] / medians["torch"],
        "ratio_quartiles": quartiles(by_round),
        "ratio_by_round": by_round,
        "ours_cpu_ms": cpus["ours"],
        "torch_cpu_ms": cpus["torch"],
        "cpu_ratio": cpus["ours"] / cpus["torch"] if known else None,
        "torch_setting": best["torch"],
        "samples": {
            contestant: {setting: [samples(turn) for turn in own] for setting, own in of.items()}
            for contestant, of in rounds.items()
        },
    }


def median_of(turn: list[Iteration]) -> float:
    return statistics.median(one.ms for one in turn)


def median_cpu(rounds: list[list[Iteration]]) -> float | None:
    found = [one.cpu_ms for turn in rounds for one in turn if one.cpu_ms is not None]
    return statistics.median(found) if found else None


def samples(turn: list[Iteration]) -> dict[str, list[float | None]]:
    return {"ms": [one.ms for one in turn], "cpu_ms": [one.cpu_ms for one in turn]}


def distances_of(mode: str, distances: dict[str, dict[str, float]]) -> dict[str, object]:
    row: dict[str, object] = {}
    names = {"logits": f"{mode}_logits_distance"}
    if mode == "train":
        names["gradient"] = "gradient_distance"
    for name, key in names.items():
        ours, peer = distances["ours"][key], distances["torch"][key]
        row |= {f"{name}_distance": ours, f"torch_{name}_distance": peer, f"{name}_distance_ratio": ours / peer}
    return row


def report(result: dict[str, object]) -> str:
    """The table, as Markdown."""
    rows = result["rows"]
    assert isinstance(rows, list)
    lines = [
        heading(result) + " A ratio is ours over PyTorch's.",
        "",
        "| mode | size | ours, ms | PyTorch, ms | **ratio** | quartiles over rounds | CPU ratio | ours, MiB "
        "| PyTorch, MiB | memory ratio | logits from f64 | ratio | gradients from f64 | ratio |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        cells = [row["mode"], f"{row['size']}²", ms(row["ours_ms"]), ms(row["torch_ms"]), f"**{ratio(row['ratio'])}**"]
        cells += [f"{ratio(low)} – {ratio(high)}", maybe(row["cpu_ratio"])]
        for contestant in ["ours", "torch"]:
            memory = row["memory"][contestant]
            cells.append("unknown" if memory is None else f"{memory['above_mib']:.0f}")
        cells += [maybe(row["memory_ratio"]), *distance(row, "logits"), *distance(row, "gradient")]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "*CPU*: processor time of all threads. *MiB*: the peak of a fresh process above what it had before its first "
        f"step. *From f64*: our distance from what PyTorch computes in f64, relative L2; it may be {DISTANCE_RATIO} "
        "times that of PyTorch's f32.",
    ]
    return "\n".join(lines)


def heading(result: dict[str, object]) -> str:
    of, named = result["machine"], result["versions"]
    assert isinstance(of, dict) and isinstance(named, dict)
    return (
        f"{of['cpu']}, {result['threads']} threads each; "
        + ", ".join(f"{name} {version}" for name, version in named.items())
        + f"; medians over {result['rounds']} rounds."
    )


def maybe(value: float | None) -> str:
    return "unknown" if value is None else ratio(value)


def distance(row: dict[str, float], name: str) -> list[str]:
    """Ours, and its ratio to PyTorch's; nothing where there is none."""
    if f"{name}_distance" not in row:
        return ["", ""]
    times = row[f"{name}_distance_ratio"]
    # Not `>`: a NaN is not met either.
    met = "" if times <= DISTANCE_RATIO else f", **not ≤ {DISTANCE_RATIO}**"
    return [f"{row[f'{name}_distance']:.1e}", ratio(times) + met]


# Ours alone: does a pixel of a large image cost more?


def measure_ours(options: argparse.Namespace) -> dict[str, object]:
    plan = plan_of(options)
    binary = build("compare-step")
    sizes = sorted({BASE, *options.sizes})
    result: dict[str, object] = {
        "machine": machine(),
        "versions": versions(),
        "threads": cores(),
        "rounds": plan.rounds,
    }
    rows: list[dict[str, object]] = []
    for mode in options.modes:
        with contextlib.ExitStack() as started:
            turns = []
            for side in sizes:
                worker = started.enter_context(Worker([binary], ONE_POOL, cores()))
                worker.order("load", str(side), "0")
                turns.append(Turn(f"{side}", worker, mode))
            rounds = interleave(f"{mode}, ours alone", turns, plan)
        medians = {side: statistics.median(walls(rounds[f"{side}"][ONE_POOL])) for side in sizes}
        pixel = {side: medians[side] * 1e6 / side**2 for side in sizes}
        rows += [
            {
                "mode": mode,
                "size": side,
                "ours_ms": medians[side],
                "ours_cpu_ms": median_cpu(rounds[f"{side}"][ONE_POOL]),
                "ns_per_pixel": pixel[side],
                f"relative_to_{BASE}": pixel[side] / pixel[BASE],
                "samples": [samples(turn) for turn in rounds[f"{side}"][ONE_POOL]],
            }
            for side in sizes
        ]
    return result | {"rows": rows}


def report_ours(result: dict[str, object]) -> str:
    """The table, as Markdown."""
    rows = result["rows"]
    assert isinstance(rows, list)
    lines = [heading(result), "", f"| mode | size | ms | ns a pixel | over {BASE}² |", "|---|---:|---:|---:|---:|"]
    for row in rows:
        cells = [row["mode"], f"{row['size']}²", ms(row["ours_ms"]), f"{row['ns_per_pixel']:.0f}"]
        cells.append(ratio(row[f"relative_to_{BASE}"]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
