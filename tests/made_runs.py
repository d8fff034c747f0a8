"""Probe runs for the tests of analysis: records and predictions of made-up scores, written through the run contract."""

import json
from dataclasses import asdict

import numpy as np
from helpers import TinyDataset, encoder_identity

from data import paths, runs, store
from data.nomenclature import CLASSES_19
from data.nomenclature import EUROSAT_CLASSES as CLASSES
from probes.intervals import intervals as intervals_of
from probes.spatial import units

BIGEARTHNET, EUROSAT = list(CLASSES_19), list(CLASSES)


def outcome(truth, decided):
    """One class's entry of ``per_class``, worked out from 0/1 vectors; what divides by zero is 0."""
    tp, fp = int((truth & decided).sum()), int((~truth & decided).sum())
    tn, fn = int((~truth & ~decided).sum()), int((truth & ~decided).sum())

    def share(part, whole):
        return part / whole if whole else 0.0

    return {
        "tp": tp,
        "fp": fp,
        "tn": tn,
        "fn": fn,
        "precision": share(tp, tp + fp),
        "recall": share(tp, tp + fn),
        "specificity": share(tn, tn + fp),
        "f1": share(2 * tp, 2 * tp + fp + fn),
        "f2": share(5 * tp, 5 * tp + 4 * fn + fp),
        "ap": None,
        "support": tp + fn,
    }


def curve(epoch):
    """One entry of the head's ``curves``: made-up losses that fall and accuracies that rise."""
    return {
        "epoch": epoch,
        "train_loss": 2.3 / epoch,
        "train_accuracy": 1 - 0.9 / epoch,
        "val_loss": 2.3 / epoch + 0.02 * epoch,
        "val_accuracy": 1 - 0.95 / epoch,
    }


def make_run(
    out, labels, scores, class_names, *, kind="linear", model="stats", dataset="simulated", simulated=False, seed=0,
    thresholds=None, encoder=None, arguments=None, lonlat=None, train_km=None,
):  # fmt: skip
    """Write one run whose val and test are these labels (N, K) or (N,) and scores (N, K).

    Args:
        thresholds: (K,) of the ``tuned`` rule of a multi-label run; 0.5 otherwise.
        lonlat: (N, 2) degrees of the test samples, or None.
        train_km: (N,) km from each to the nearest training sample, or None.
    """
    multilabel = labels.ndim == 2
    splits = {
        split: TinyDataset(split, labels, class_names, name=dataset, simulated=simulated)
        for split in ("train", "val", "test")
    }
    identities = {
        split: store.make_identity(source, encoder or encoder_identity(model)) for split, source in splits.items()
    }
    first = identities["train"]
    features = {key: first[key] for key in ("schema", "dataset", "encoder")}
    features["splits"] = {split: identity["split"] for split, identity in identities.items()}
    classes = len(class_names)
    truth = labels.astype(bool) if multilabel else labels[:, None] == np.arange(classes)
    per_class, metrics, intervals = {}, {}, {}
    for rule in ("half", "tuned"):
        limits = np.full(classes, 0.5) if rule == "half" or thresholds is None else np.asarray(thresholds)
        decided = scores >= limits if multilabel else scores.argmax(axis=1)[:, None] == np.arange(classes)
        per_class[rule] = [
            {"name": name, **outcome(truth[:, k], decided[:, k]), "threshold": float(limits[k]) if multilabel else None}
            for k, name in enumerate(class_names)
        ]
        whole = outcome(truth.ravel(), decided.ravel())
        macro = {
            f"{m}_macro": float(np.mean([c[m] for c in per_class[rule]])) for m in ("f2", "f1", "precision", "recall")
        }
        if multilabel:
            micro = {f"{m}_micro": whole[m] for m in ("f2", "f1", "precision", "recall")}
            exact = float((truth == decided).all(axis=1).mean())
            metrics[rule] = macro | micro | {"hamming_loss": float((truth != decided).mean()), "subset_accuracy": exact}
        else:
            right = float((truth & decided).any(axis=1).mean())
            metrics[rule] = macro | {"accuracy": right, "balanced_accuracy": macro["recall_macro"]}
        found = intervals_of(truth, decided, scores, units(lonlat, len(labels)), class_names, multilabel=multilabel)
        intervals[rule] = {metric: asdict(found[metric]) for metric in metrics[rule]}
    record = {
        "dataset": store.dataset_slug(first),
        "encoder": store.encoder_slug(first),
        "kind": kind,
        "seed": seed,
        "arguments": arguments or {},
        "multilabel": multilabel,
        "class_names": list(class_names),
        "features": features,
        "chosen": {"epoch": 8} if kind == "head" else {"C": 1.0},
        "candidates": [],
        "history": {"curves": [curve(epoch) for epoch in range(1, 11)]} if kind == "head" else {},
        "seconds": {"fit": 1.5, "score": 0.1, "total": 2.0},
        "metrics": {"val": metrics, "test": metrics},
        "intervals": {"test": intervals},
        "per_class": per_class,
        "warnings": [],
    }
    name = runs.run_name(kind, features, arguments or {}, seed)
    folder = paths.run_folder(out, record["dataset"], record["encoder"], name)
    predictions = {
        split: runs.Predictions([f"{split}-{i}" for i in range(len(labels))], labels, scores, lonlat, train_km)
        for split in ("val", "test")
    }
    return runs.write_run(folder, record, predictions, lambda path: path.write_bytes(b""))


def made_up(class_names, *, multilabel, rows=600, skill=2.0, seed=0, shares=None):
    """Labels and scores of a probe with some skill; later classes of multi-label data are rarer.

    Returns:
        labels (N, K) or (N,), scores (N, K).
    """
    rng = np.random.default_rng(seed)
    classes = len(class_names)
    if multilabel:
        shares = np.geomspace(0.5, 0.003, classes) if shares is None else shares
        labels = (rng.random((rows, classes)) < shares).astype(np.uint8)
        logits = skill * (labels * 2.0 - 1) + rng.standard_normal((rows, classes)) * 1.5 + np.log(shares + 1e-3)
        return labels, (1 / (1 + np.exp(-logits))).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    logits = skill * np.eye(classes)[labels] + rng.standard_normal((rows, classes))
    scores = np.exp(logits)
    return labels, (scores / scores.sum(axis=1, keepdims=True)).astype(np.float32)


def rewrite(run):
    """Write the record of a run again, after a test has changed it or a file of the run."""
    (run.folder / "run.json").write_text(json.dumps(runs.sign(run.folder, run.record)))
