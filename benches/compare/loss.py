#!/usr/bin/env python3
"""Times DSC++ (γ = 2), loss and gradient from logits, beside what else computes it.

    python3 benches/compare/loss.py                 everything, a few minutes
    python3 benches/compare/loss.py --quick         fewer rounds
    python3 benches/compare/loss.py --shapes 1x2x512x512 --json loss.json

It starts with Python's standard library alone. The first time it makes a virtual environment (--env) and installs
PyTorch, NumPy and MONAI in it with pip, some gigabytes.

Who is measured, each in a process of its own with a thread a core:

  ours           value_and_grad on u8 labels; beside it on the one-hot target, and by Tensor::backward on labels
  composed       the loss as a Candle user would write it, Tensor::backward
  torch-eager    the same formula in PyTorch
  torch-compile  that under torch.compile, if it works here: it needs a C++ compiler
  monai          MONAI's DiceLoss with squared terms, which is this loss when γ = 2 and the target is 0 or 1
  copy           a plain copy of the least bytes: logits and labels read twice, since no gradient can be written before
                 the sums over all pixels are known, and the gradient written once

The last five are given a one-hot f32 target, made beforehand; `ours` on labels is not. Each iteration makes a fresh
gradient and frees it, with the allocator that the process has by default. All read the same logits from one file, and
before anything is timed their values and gradients are compared with each other and with one computed in f64: a
disagreement ends the program with code 1. `composed` and `monai`, whose f32 sums lose digits, are compared in f64 and
timed in f32; what they lose is reported.

Threads that spin while they wait gain a little on a quiet machine and lose much on a busy one. So each peer runs under
both: PyTorch with OpenMP's ordinary waiting and with OMP_WAIT_POLICY=PASSIVE, `composed` with Candle's own pool of
threads and with CANDLE_NUM_THREADS=1; the better median counts as the peer's. `ours` has CANDLE_NUM_THREADS=1 alone.

In each round every contestant has a turn: one iteration that is not counted (none if it takes longer than a turn), then
some that are. Meanwhile the processes of all others are stopped (turns.py).
"""

from __future__ import annotations

import argparse
import contextlib
import re
import statistics
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from turns import (
    ONE_POOL,
    ORDINARY,
    PASSIVE,
    Failure,
    Plan,
    Refusal,
    Rounds,
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

HERE = Path(__file__).resolve().parent
SHAPES = ["1x2x512x512", "8x2x512x512", "2x4x128x128x128", "1x1x512x512"]
PACKAGES = ["torch", "numpy", "monai"]
OURS = ["ours", "ours-backward", "ours-one-hot"]
PEERS = ["composed", "torch-eager", "torch-compile", "monai", "copy"]
#: The processes: the program, the settings of which there is a process each, and the contestants in it.
PROCESSES = [
    ("rust", [ONE_POOL], OURS),
    ("rust", [ORDINARY, ONE_POOL], ["composed"]),
    ("rust", [ONE_POOL], ["copy"]),
    ("python", [ORDINARY, PASSIVE], ["torch-eager"]),
    ("python", [ORDINARY, PASSIVE], ["torch-compile"]),
    ("python", [ORDINARY, PASSIVE], ["monai"]),
]
#: Of any two contestants' gradients, relative L2, and of their losses.
GRADIENT_TOLERANCE = 1e-5
VALUE_TOLERANCE = 1e-6
#: Their f32 sums over millions of pixels lose more than that. So they have to agree when they compute in f64, which
#: says that the formula is the same, and what they lose in f32, as they are timed, is bounded and reported.
LOSES_DIGITS = ["composed", "monai"]
LOST_GRADIENT = 1e-3
LOST_VALUE = 1e-4


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument(
        "--shapes", nargs="+", metavar="NxCx...", default=SHAPES, type=shape,
        help="default: " + " ".join(SHAPES),
    )  # fmt: skip
    deliver(parser.parse_args(), measure, report)


def shape(text: str) -> str:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){2,}", text):
        raise argparse.ArgumentTypeError(f"expected a shape like 1x2x512x512, found {text!r}")
    return text


class Workers(contextlib.ExitStack):
    """All processes, ended whatever happens."""

    def __init__(self, binary: Path, python: Path, threads: int) -> None:
        super().__init__()
        commands: dict[str, list[str | Path]] = {
            "rust": [binary],
            "python": [python, HERE / "peers.py", "worker", str(threads)],
        }
        self.of: dict[str, list[Worker]] = {}
        for program, settings, contestants in PROCESSES:
            started = [self.enter_context(Worker(commands[program], setting, threads)) for setting in settings]
            self.of |= {contestant: started for contestant in contestants}

    def all(self) -> list[Worker]:
        return [worker for _, _, (first, *_) in PROCESSES for worker in self.of[first]]


# The measurement.


@dataclass
class ShapeResult:
    """What one shape gave."""

    bytes: int
    rounds: Rounds
    values: dict[str, float]
    gradients: dict[str, float]
    left_out: dict[str, str] = field(default_factory=dict)


def measure(options: argparse.Namespace) -> dict[str, object]:
    plan = planned(options, Plan(rounds=15, turn_s=0.2), quick=Plan(rounds=4, turn_s=0.05))
    python = environment(options.env, PACKAGES)
    binary = build("compare-loss")
    threads = cores()
    result: dict[str, object] = {
        "machine": machine() | {"versions": peers_versions(python, PACKAGES) | versions()},
        "threads": threads,
        "rounds": plan.rounds,
        "rows": [],
        "shapes": {},
        "left_out": [],
    }
    with Workers(binary, python, threads) as workers:
        for name in options.shapes:
            add(result, name, one_shape(name, workers, python, plan))
    return result


def one_shape(name: str, workers: Workers, python: Path, plan: Plan) -> ShapeResult:
    with tempfile.TemporaryDirectory(prefix="compare-loss-") as folder:
        say(f"{name}: drawing")
        reference = ask_python(python, "peers.py", "data", folder, name)["value"]  # type: ignore[index]
        answers = {worker: worker.order("load", folder, name) for worker in workers.all()}
        least = int(answers[workers.of["copy"][0]].removeprefix("bytes "))
        say(f"{name}: comparing values and gradients")
        contestants = [*OURS, *PEERS]
        left_out: dict[str, str] = {}
        values = {"reference": reference}
        for contestant in [c for c in contestants if c != "copy"]:
            ask = workers.of[contestant][0].ask
            try:
                for dtype in ["f32", "f64"] if contestant in LOSES_DIGITS else ["f32"]:
                    given = contestant if dtype == "f32" else in_f64(contestant)
                    file = str(Path(folder) / f"{given}.grad")
                    values[given] = float(ask("write", contestant, dtype, file))
            except Refusal as refusal:
                if contestant != "torch-compile":
                    raise Failure(f"{contestant} at {name}: {refusal}") from None
                say(f"{name}: torch-compile left out: {refusal}")
                left_out[contestant] = str(refusal)
                contestants.remove(contestant)
        distances = ask_python(python, "peers.py", "compare", folder, *values)
    gradients = agree(name, values, distances)  # type: ignore[arg-type]
    turns = [
        Turn(contestant, worker, contestant) for contestant in contestants for worker in workers.of[contestant]
    ]
    return ShapeResult(least, interleave(name, turns, plan), values, gradients, left_out)


def in_f64(contestant: str) -> str:
    return f"{contestant}-f64"


def agree(
    name: str, values: dict[str, float], distances: list[dict[str, object]]
) -> dict[str, float]:
    """Each gradient's distance from the f64 reference, if all pairs agree."""
    wrong = []
    for pair in distances:
        a, b, distance = str(pair["a"]), str(pair["b"]), float(str(pair["relative_l2"]))
        loses = a in LOSES_DIGITS or b in LOSES_DIGITS
        value_limit = LOST_VALUE if loses else VALUE_TOLERANCE
        gradient_limit = LOST_GRADIENT if loses else GRADIENT_TOLERANCE
        # Not `>`: a NaN has to fail.
        if not abs(values[a] - values[b]) <= value_limit:
            wrong.append(
                f"the losses of {a} and {b} are {values[a]:.9} and {values[b]:.9}, allowed are {value_limit} apart"
            )
        if not distance <= gradient_limit:
            wrong.append(
                f"the gradients of {a} and {b} differ by {distance:.2e} (relative L2), allowed is {gradient_limit}"
            )
    if wrong:
        raise Failure(
            f"at {name} the contestants do not compute the same, so their times can't be compared:\n  "
            + "\n  ".join(wrong)
        )
    return {
        str(pair["b"]): float(str(pair["relative_l2"]))
        for pair in distances
        if pair["a"] == "reference"
    }


# The results.


def add(result: dict[str, object], name: str, shape_result: ShapeResult) -> None:
    rounds = shape_result.rounds
    settings = {
        contestant: {setting: statistics.median(walls(own)) for setting, own in by_setting.items()}
        for contestant, by_setting in rounds.items()
    }
    best = {contestant: best_setting(rounds[contestant]) for contestant in rounds}
    times = {contestant: walls(rounds[contestant][best[contestant]]) for contestant in best}
    medians = {contestant: settings[contestant][best[contestant]] for contestant in best}
    rows, shapes, left_out = result["rows"], result["shapes"], result["left_out"]
    assert isinstance(rows, list) and isinstance(shapes, dict) and isinstance(left_out, list)
    for peer in PEERS:
        if peer in shape_result.left_out:
            left_out.append({"shape": name, "peer": peer, "reason": shape_result.left_out[peer]})
            continue
        rows.append(
            {
                "shape": name,
                "peer": peer,
                "ratio": medians[peer] / medians["ours"],
                "ours_ms": medians["ours"],
                "peer_ms": medians[peer],
                "ratio_backward": medians[peer] / medians["ours-backward"],
                "ours_backward_ms": medians["ours-backward"],
                "ratio_one_hot": medians[peer] / medians["ours-one-hot"],
                "ours_one_hot_ms": medians["ours-one-hot"],
                "quartiles": {
                    "ours_ms": quartiles(times["ours"]),
                    "ours_backward_ms": quartiles(times["ours-backward"]),
                    "ours_one_hot_ms": quartiles(times["ours-one-hot"]),
                    "peer_ms": quartiles(times[peer]),
                },
            }
        )
    shapes[name] = {
        "least_bytes": shape_result.bytes,
        "copy_gb_s": shape_result.bytes / medians["copy"] / 1e6,
        "iterations": {contestant: len(own) for contestant, own in times.items()},
        "median_ms_by_setting": settings,
        "loss": shape_result.values,
        "gradient_relative_l2_from_reference": shape_result.gradients,
    }


def report(result: dict[str, object]) -> str:
    """The table, as Markdown."""
    machine, rows, shapes = result["machine"], result["rows"], result["shapes"]
    left_out = result["left_out"]
    assert isinstance(machine, dict) and isinstance(rows, list)
    assert isinstance(shapes, dict) and isinstance(left_out, list)
    versions = machine["versions"]

    def ran(contestant: str) -> bool:
        return all(contestant in one["loss"] for one in shapes.values())

    lines = [
        f"{machine['cpu']}, {result['threads']} threads each; "
        + ", ".join(f"{name} {version}" for name, version in versions.items())
        + f"; medians over {result['rounds']} rounds. Milliseconds for loss and gradient; a ratio is the peer's time "
        "over ours.",
        "",
        "| shape | peer | peer, ms | ours, ms | **ratio** | one-hot, ms | ratio | backward, ms | ratio |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        cells = [row["shape"], row["peer"], ms(row["peer_ms"])]
        cells += [ms(row["ours_ms"]), f"**{ratio(row['ratio'])}**"]
        cells += [ms(row["ours_one_hot_ms"]), ratio(row["ratio_one_hot"])]
        cells += [ms(row["ours_backward_ms"]), ratio(row["ratio_backward"])]
        lines.append(f"| {' | '.join(cells)} |")
    for gone in left_out:
        lines.append(f"| {gone['shape']} | {gone['peer']} | does not run here: {gone['reason']} | | | | | | |")
    lines += [
        "",
        "*ours*: `value_and_grad` on u8 labels; *one-hot*: the same on the f32 one-hot target that every peer is "
        "given; *backward*: `Tensor::backward` on labels. *copy* moves the least bytes that loss and gradient need: "
        + ", ".join(f"{name} at {one['copy_gb_s']:.1f} GB/s" for name, one in shapes.items())
        + ". Farthest from the f64 loss, and its gradient in relative L2: "
        + ", ".join(lost(contestant, shapes) for contestant in ["ours", *PEERS[:-1]] if ran(contestant))
        + ".",
    ]
    return "\n".join(lines)


def lost(contestant: str, shapes: dict[str, dict[str, dict[str, float]]]) -> str:
    """What a contestant's f32 sums lose, at worst."""
    loss = max(abs(one["loss"][contestant] - one["loss"]["reference"]) for one in shapes.values())
    gradient = max(one["gradient_relative_l2_from_reference"][contestant] for one in shapes.values())
    return f"{contestant} {loss:.0e} and {gradient:.0e}"


if __name__ == "__main__":
    main()
