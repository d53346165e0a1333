#!/usr/bin/env python3
"""Computes the trainer's calibration and surface metrics with the libraries that others use, for the golden test.

    python3 -m venv venv
    venv/bin/pip install torch==2.11.0 torchmetrics==1.9.0 monai==1.6.1 netcal==1.4.0 scipy==1.17.1 \\
        scikit-learn==1.9.1 safetensors==0.8.0
    venv/bin/python benches/compare/calibration.py

It draws inputs from a fixed seed and writes them to `calibration.safetensors` in tests/fixtures/golden, and to
`calibration.json` beside it what each library makes of them: a record is the figure's name here, who computed it, the
value, and how near ours has to be. The test tests/golden/calibration.rs compares them all.

Where definitions differ:

  torchmetrics  Bins are [lo, hi) and p = 1 has a bin of its own beyond the last: `Top::OwnBin` here. What is recorded
                under "own bin …" is compared with that.
  netcal        Bins are [lo, hi), the last closed, after p is clipped to [eps, 1 - eps] of f64: as here.
                Its bins of equal mass end at np.quantile. Where no two p are alike and the runs are of one length these
                are ours; other inputs are not given to it.
  MONAI         `right=True` is [lo, hi), whatever its documentation says. Its edges are in f32 and stretched by eps, so
                that p on an inner edge falls into the bin below: inputs with such p are not given to it, and the file
                says how many these are. It counts in f32, the place of a percentile among the sorted distances too,
                which moves it by a ten-thousandth of their gap: so it is also taken of its distances in f64. An empty
                mask is NaN there, and infinity beside one that is not.
  SciPy         Erosion takes what is outside the image for background: as here.
  NumPy         Written out here, for what no library has: equal runs among ties, Brier's parts, volumes, intervals.
"""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from pathlib import Path

import numpy as np
import torch
from monai.metrics import (
    CalibrationErrorMetric,
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)
from monai.metrics.utils import get_edge_surface_distance
from netcal.metrics import ACE, ECE, MCE
from safetensors.numpy import save_file
from scipy import ndimage, stats
from sklearn.metrics import brier_score_loss, log_loss
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

OUT = Path(__file__).parents[2] / "tests/fixtures/golden"
EXACT, SINGLE, PLACED = 1e-12, 1e-6, 1e-4
warnings.filterwarnings("ignore")


class Case:
    """One input with what is known of it."""

    def __init__(self, kind, name, **settings):
        self.entry = {"kind": kind, "name": name, **settings, "figures": []}

    def add(self, what, by, value, bound=EXACT):
        value = None if value is None or not np.isfinite(value) else float(value)
        self.entry["figures"].append({"what": what, "by": by, "value": value, "bound": bound})


def blobs(rng, height, width, classes, scale):
    """Labels of smooth patches that reach the borders."""
    fields = [ndimage.gaussian_filter(rng.normal(size=(height, width)), scale) for _ in range(classes)]
    return np.argmax(fields, axis=0).astype(np.uint8)


def probabilities(rng, labels, classes, kind):
    """[classes, height, width] in f32, related to the labels."""
    shape = (classes, *labels.shape)
    if kind == "ties":  # sixteenths that sum to one, with many sure ones
        counts = rng.multinomial(16, rng.dirichlet(np.full(classes, 0.3), labels.shape), labels.shape)
        return np.moveaxis(counts, -1, 0).astype(np.float32) / np.float32(16)
    onehot = np.stack([labels == c for c in range(classes)])
    logits = 2.5 * ndimage.gaussian_filter(onehot.astype(float), (0, 1, 1)) + rng.normal(size=shape)
    logits *= 1.5 if kind == "smooth" else 12.0  # saturated: exact ones and almost zeros
    z = np.exp(logits - logits.max(0))
    return (z / z.sum(0)).astype(np.float32)


def expected(name, p, right, bins):
    """ECE, ACE and MCE of netcal over bins of equal width."""
    pairs = [("ece", ECE), ("ace", ACE), ("mce", MCE)]
    return [(f"{name} {what}", "netcal", m(bins, detection=True).measure(p, right.astype(int))) for what, m in pairs]


def on_an_edge(p, bins):
    inner = np.arange(1, bins) / bins
    return bool(np.isin(p.astype(np.float32), inner.astype(np.float32)).any())


def equal_mass(p, right, bins):
    """Runs of sorted pixels, with what was right shared among those of one p."""
    order = np.argsort(p, kind="stable")
    p, right = p[order], right[order].astype(float)
    _, group = np.unique(p, return_inverse=True)
    right = (np.bincount(group, right) / np.bincount(group))[group]
    runs = [run for run in np.array_split(np.arange(p.size), bins) if run.size]
    gaps = np.array([abs(right[run].mean() - p[run].mean()) for run in runs])
    sizes = np.array([run.size for run in runs])
    return (gaps * sizes).sum() / p.size, gaps.mean(), gaps.max()


def binned(p, bins):
    edges = np.arange(bins + 1) / bins
    return np.minimum(np.searchsorted(edges, p, side="right") - 1, bins - 1)


def brier_parts(p, y, bins):
    """Stephenson, Coelho and Jolliffe 2008, bin by bin."""
    parts = {"reliability": 0.0, "resolution": 0.0, "within_variance": 0.0, "within_covariance": 0.0}
    parts["uncertainty"] = y.mean() * (1 - y.mean())
    for k in range(bins):
        inside = binned(p, bins) == k
        if not inside.any():
            continue
        share, pk, yk = inside.mean(), p[inside], y[inside].astype(float)
        parts["reliability"] += share * (pk.mean() - yk.mean()) ** 2
        parts["resolution"] += share * (yk.mean() - y.mean()) ** 2
        parts["within_variance"] += share * pk.var()
        parts["within_covariance"] += share * 2 * ((pk - pk.mean()) * (yk - yk.mean())).mean()
    return parts


def boundary(labels, k):
    changes = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    changes[1:] |= down
    changes[:-1] |= down
    changes[:, 1:] |= right
    changes[:, :-1] |= right
    if not changes.any():
        return changes
    return ndimage.distance_transform_edt(~changes) <= k


def calibration(rng, tensors, name, size, classes, kind, bins, k, left_out):
    labels = blobs(rng, *size, classes, 3)
    p32 = probabilities(rng, labels, classes, kind)
    p = p32.astype(np.float64).reshape(classes, -1)
    q32 = probabilities(rng, labels, classes, "smooth")[1:]
    q = q32.astype(np.float64).reshape(classes - 1, -1)
    y = labels.reshape(-1)
    tensors |= {f"{name}/p": p32.reshape(classes, -1), f"{name}/y": y, f"{name}/q": q32.reshape(classes - 1, -1)}
    case = Case("calibration", name, size=list(size), classes=classes, bins=bins, boundary=k)
    near = boundary(labels, k).reshape(-1)
    edges = []
    for c in range(1, classes):
        of, right = f"class {c}", y == c
        for norm in ["l1", "l2", "max"]:
            value = binary_calibration_error(torch.tensor(p[c]), torch.tensor(right.astype(int)), bins, norm)
            case.add(f"{of} own bin {norm}", "torchmetrics", value)
        for figure in expected(of, p[c], right, bins):
            case.add(*figure)
        if on_an_edge(p32[c], bins):
            left_out.append(f"MONAI: {name}, {of}")
        else:
            for what, how in [("ece", "expected"), ("ace", "average"), ("mce", "maximum")]:
                metric = CalibrationErrorMetric(bins, calibration_reduction=how, right=True)
                metric(torch.tensor(p32[c])[None, None], torch.tensor(labels == c)[None, None].float())
                case.add(f"{of} {what}", "MONAI", metric.aggregate(), SINGLE)
        for what, value in zip(["ece", "ace", "mce"], equal_mass(p[c], right, bins), strict=True):
            case.add(f"{of} equal mass {what}", "NumPy", value)
        if np.unique(p[c]).size == y.size and y.size % bins == 0:
            for what, metric in [("ece", ECE), ("ace", ACE), ("mce", MCE)]:
                value = metric(bins, equal_intervals=False, detection=True).measure(p[c], right.astype(int))
                case.add(f"{of} equal mass {what}", "netcal", value)
        else:
            left_out.append(f"netcal, equal mass: {name}, {of}")
        if near.any():
            edges.append(ECE(bins, detection=True).measure(p[c][near], right[near].astype(int)))
    case.add("boundary ece", "netcal, SciPy", np.mean(edges) if edges else None)
    for norm in ["l1", "l2", "max"]:
        value = multiclass_calibration_error(torch.tensor(p.T), torch.tensor(y.astype(int)), classes, bins, norm)
        case.add(f"top label own bin {norm}", "torchmetrics", value, SINGLE)
    best = p.argmax(0)
    for figure in expected("top label", p.max(0), best == y, bins):
        case.add(*figure)
    if classes > 2:
        case.add("top label ece", "netcal, all classes", ECE(bins).measure(p.T, y.astype(int)))
    case.add("brier", "scikit-learn", np.mean([brier_score_loss(y == c, p[c].clip(0, 1)) for c in range(classes)]))
    parts = [brier_parts(p[c], y == c, bins) for c in range(classes)]
    for part in parts[0]:
        case.add(f"brier {part}", "NumPy", np.mean([of_class[part] for of_class in parts]))
    clipped = p.clip(1e-7, 1 - 1e-7)
    if np.allclose(clipped.sum(0), 1, atol=1e-6):
        # scikit-learn makes p sum to one, which f32 does not quite.
        case.add("nll", "scikit-learn", log_loss(y, clipped.T, labels=range(classes)), SINGLE)
    nll = torch.nn.functional.nll_loss(torch.tensor(clipped.T).log(), torch.tensor(y.astype(int)))
    case.add("nll", "PyTorch", nll)
    case.add("volume bias", "NumPy", (p[1:].sum() - (y > 0).sum()) / (y > 0).sum() if (y > 0).any() else None)
    case.add("truth absolute", "NumPy", np.abs(p[1:] - q).mean())
    gaps = []
    for c in range(1, classes):
        bin_of, gap = binned(p[c], bins), 0.0
        for b in np.unique(bin_of):
            inside = bin_of == b
            gap += inside.mean() * abs(p[c][inside].mean() - q[c - 1][inside].mean())
        gaps.append(gap)
    case.add("truth ece", "NumPy", np.mean(gaps))
    full = np.concatenate([1 - q.sum(0, keepdims=True), q])
    full = np.where(full > 0, full, 0)
    case.add("truth kl", "NumPy", (full * (np.log(np.where(full > 0, full, 1)) - np.log(clipped))).sum(0).mean())
    if p.min() > 1e-6:
        case.add("truth kl", "SciPy", stats.entropy(full, p, axis=0).mean(), SINGLE)  # which makes both sum to one
    return case.entry


def data_set(rng, tensors, names, classes, bins):
    """Several images of those above as one lot."""
    case = Case("data set", " + ".join(names), images=names, classes=classes, bins=bins, boundary=2)
    p = [tensors[f"{name}/p"].astype(np.float64) for name in names]
    y = [tensors[f"{name}/y"] for name in names]
    both_p, both_y = np.concatenate(p, axis=1), np.concatenate(y)
    for c in range(1, classes):
        for figure in expected(f"class {c}", both_p[c], both_y == c, bins):
            case.add(*figure)
    for figure in expected("top label", both_p.max(0), both_p.argmax(0) == both_y, bins):
        case.add(*figure)
    briers = [brier_score_loss(both_y == c, both_p[c].clip(0, 1)) for c in range(classes)]
    case.add("brier", "scikit-learn", np.mean(briers))
    biases = np.array([(a[1:].sum() - (b > 0).sum()) / (b > 0).sum() for a, b in zip(p, y, strict=True)])
    case.add("volume mean", "NumPy", biases.mean())
    case.add("volume mean absolute", "NumPy", np.abs(biases).mean())
    bin_of = [binned(a[1], bins) for a in p]
    for b in range(bins):
        n = np.array([(of == b).sum() for of in bin_of], float)
        r = np.array([((of == b) & (labels == 1)).sum() for of, labels in zip(bin_of, y, strict=True)], float)
        n, r = n[n > 0], r[n > 0]
        low = high = None
        if n.size > 1:
            share = r.sum() / n.sum()
            error = np.sqrt(n.size / (n.size - 1) * ((r - share * n) ** 2).sum()) / n.sum()
            low, high = share + np.array([-1, 1]) * stats.t.ppf(0.975, n.size - 1) * error
            low, high = max(low, 0), min(high, 1)
        # Student's quantile is another program's.
        case.add(f"class 1 bin {b} low", "NumPy, SciPy", low, 1e-9)
        case.add(f"class 1 bin {b} high", "NumPy, SciPy", high, 1e-9)
    return case.entry


def surfaces(tensors, name, predicted, truth, classes, spacing, tolerance):
    case = Case("surfaces", name, size=list(truth.shape), classes=classes, spacing=spacing, tolerance=tolerance)
    tensors |= {f"{name}/predicted": predicted.reshape(-1), f"{name}/truth": truth.reshape(-1)}
    for c in range(1, classes):
        a, b = predicted == c, truth == c
        tensor = [torch.tensor(mask)[None, None].float() for mask in (a, b)]
        settings = {"include_background": True, "spacing": spacing}
        figures = [
            ("hd95", compute_hausdorff_distance(*tensor, percentile=95, **settings)),
            ("hd", compute_hausdorff_distance(*tensor, **settings)),
            ("assd", compute_average_surface_distance(*tensor, symmetric=True, **settings)),
            ("nsd", compute_surface_dice(*tensor, class_thresholds=[tolerance], **settings)),
        ]
        for what, value in figures:
            case.add(f"class {c} {what}", "MONAI", value.item(), PLACED if what == "hd95" else SINGLE)
        if not (a.any() and b.any()):
            continue
        _, ways, _ = get_edge_surface_distance(*(t[0, 0] for t in tensor), spacing=spacing, symmetric=True)
        value = max(torch.quantile(way.double(), 0.95) for way in ways)
        case.add(f"class {c} hd95", "MONAI, placed in f64", value, SINGLE)
        edge_a, edge_b = (mask ^ ndimage.binary_erosion(mask) for mask in (a, b))
        there = ndimage.distance_transform_edt(~edge_b, sampling=spacing)[edge_a]
        back = ndimage.distance_transform_edt(~edge_a, sampling=spacing)[edge_b]
        case.add(f"class {c} hd95", "SciPy", max(np.percentile(there, 95), np.percentile(back, 95)))
        case.add(f"class {c} hd", "SciPy", max(there.max(), back.max()))
        both = np.concatenate([there, back])
        case.add(f"class {c} assd", "SciPy", both.mean())
        case.add(f"class {c} nsd", "SciPy", (both <= tolerance).mean())
    return case.entry


def main():
    rng, tensors, cases, left_out = np.random.default_rng(20221), {}, [], []
    drawn = [
        ((1, 7), 2, "smooth", 15, 1),
        ((12, 10), 2, "smooth", 10, 0),
        ((16, 15), 2, "ties", 8, 2),
        ((24, 30), 2, "saturated", 15, 2),
        ((24, 30), 2, "smooth", 15, 2),
        ((24, 30), 2, "ties", 15, 2),
        ((10, 18), 3, "smooth", 10, 1),
        ((20, 24), 3, "ties", 16, 3),
        ((15, 20), 4, "saturated", 15, 2),
        ((15, 20), 5, "smooth", 20, 2),
        ((15, 20), 5, "ties", 10, 5),
    ]
    for i, (size, classes, kind, bins, k) in enumerate(drawn):
        name = f"{i} {kind}, {classes} classes"
        cases.append(calibration(rng, tensors, name, size, classes, kind, bins, k, left_out))
    names = [f"{i} {kind}, {classes} classes" for i, (_, classes, kind, _, _) in enumerate(drawn)]
    cases.append(data_set(rng, tensors, [names[i] for i in (2, 3, 4, 5)], 2, 15))
    cases.append(data_set(rng, tensors, [names[i] for i in (9, 10)], 5, 10))

    for i, (size, classes, scale) in enumerate([((9, 7), 2, 1), ((40, 33), 2, 4), ((37, 50), 3, 3), ((60, 64), 5, 4)]):
        for spacing, tolerance in [([1.0, 1.0], 1.3), ([0.7, 2.5], 2.2), ([3.0, 0.25], 0.6)]:
            truth = blobs(rng, *size, classes, scale)
            predicted = np.where(rng.random(size) < 0.02, 1, np.roll(truth, (1, 2), (0, 1))).astype(np.uint8)
            cases.append(surfaces(tensors, f"blobs {i} {spacing}", predicted, truth, classes, spacing, tolerance))
    for name, masks in {
        "a row": ([[0, 1, 1, 0, 0, 0, 1]], [[1, 1, 0, 0, 0, 0, 0]]),
        "all and one": (np.ones((6, 5)), np.pad([[1]], ((0, 5), (4, 0)))),
        "missed": (np.zeros((4, 4)), np.eye(4)),
        "invented": (np.eye(4), np.zeros((4, 4))),
        "nothing": (np.zeros((4, 4)), np.zeros((4, 4))),
    }.items():
        predicted, truth = (np.array(mask, np.uint8) for mask in masks)
        cases.append(surfaces(tensors, name, predicted, truth, 2, [0.7, 1.1], 1.0))

    packages = ["numpy", "torch", "torchmetrics", "monai", "netcal", "scipy", "scikit-learn"]
    versions = {package: importlib.metadata.version(package) for package in packages}
    OUT.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(tensors, OUT / "calibration.safetensors")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    head = json.dumps({"versions": versions, "left_out": left_out})
    (OUT / "calibration.json").write_text(head[:-1] + ',\n"cases": [\n' + lines + "\n]}\n", encoding="utf-8")
    figures = sum(len(case["figures"]) for case in cases)
    print(f"{len(cases)} cases, {figures} figures, {len(left_out)} left out: {'; '.join(left_out)}")


if __name__ == "__main__":
    main()
