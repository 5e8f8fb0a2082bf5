"""What do whole models lose in integers, and how fast does the simulator run them?

    python benchmarks/integer_models.py accuracy NAME [--seeds 0:20]     canvas networks, resumable
    python benchmarks/integer_models.py agreement [NAME ...]             untrained zoo, photographs
    python benchmarks/integer_models.py speed | first_calls              on a quiet machine
    python benchmarks/integer_models.py tables                           docs, from the JSON

Each writes its part of benchmarks/results/integer_models.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "integer_models.json"
ACCURACY = ROOT / "docs" / "accuracy.md"
RULE = ROOT / "docs" / "integer_rule.md"

CANVASES = 1000  # per seed, the test set of docs/accuracy.md
VARIANTS: dict[str, dict[str, Any]] = {
    "int8 minmax": {"bits": 8, "method": "minmax"},
    "int8 percentile": {"bits": 8, "method": "percentile"},
    "int8 mse": {"bits": 8, "method": "mse"},
    "int16 minmax": {"bits": 16, "method": "minmax"},
    "6 bits mse": {"bits": 6, "method": "mse"},
}
ZOO = (
    "parc_convnext_xt",
    "convnext_xt",
    "parc_resnet50",
    "resnet50",
    "parc_mobilenetv2",
    "mobilenetv2",
    "parcnet_s",
    "mobilevit_s",
    "conv2former_n",
    "convformer_s",
)


def load() -> dict[str, Any]:
    """What has been measured so far."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def save(part: str, value: Any) -> None:
    """Write one part beside the others."""
    document = {**load(), "generator": "benchmarks/integer_models.py", part: value}
    RESULTS.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def accuracy_of(name: str, first: int, last: int) -> None:
    """Count right answers, and disagreements with float, seed by seed."""
    from parc_hw.integer import IntegerModel, choose_formats, observe, read_network
    from parc_hw.integer.model import CALIBRATION_CANVASES, calibration_images
    from parc_hw.models.canvas_data import canvases

    network = read_network(name)
    assert network.trained, "a figure from untrained weights is no accuracy"
    seen = observe(network, calibration_images(name))
    models = {
        label: IntegerModel(network, choose_formats(network, seen, **how))
        for label, how in VARIANTS.items()
    }
    for seed in range(first, last):
        part = load().get("accuracy", {})
        entry = part.setdefault(
            name, {"calibration": f"{CALIBRATION_CANVASES} training canvases", "seeds": {}}
        )
        if str(seed) in entry["seeds"]:
            continue
        images, labels = canvases("test", CANVASES, seed)
        real = network.evaluate(images)
        right = real.argmax(axis=1) == labels
        counts: dict[str, Any] = {"float": {"right": int(right.sum())}}
        for label, model in models.items():
            logits = model.run(images).values
            answers = logits.argmax(axis=1)
            also = answers == labels
            counts[label] = {
                "right": int(also.sum()),
                "same_answer": int((answers == real.argmax(axis=1)).sum()),
                "only_float": int((right & ~also).sum()),
                "only_integer": int((~right & also).sum()),
                "signal": float((real**2).sum()),
                "noise": float(((logits - real) ** 2).sum()),
            }
        entry["seeds"][str(seed)] = counts
        save("accuracy", part)
        print(name, seed, {label: count["right"] for label, count in counts.items()}, flush=True)


def agreement_of(names: list[str]) -> None:
    """Logits of untrained models in integers beside float, on the shipped photographs."""
    from parc_hw.integer import IntegerModel, agreement, choose_formats, observe, read_network
    from parc_hw.integer.model import calibration_images

    for name in names:
        network, images = read_network(name), calibration_images(name)
        # Formats come from the mirror images: not the very values that are then measured.
        real, seen = network.evaluate(images), observe(network, images[..., ::-1])
        entry: dict[str, Any] = {"layers": len(network.layers), "origin": network.origin}
        for label in ("int8 minmax", "int8 mse", "int16 minmax"):
            model = IntegerModel(network, choose_formats(network, seen, **VARIANTS[label]))
            logits = model.run(images).values
            # What all images share tells them apart by nothing: the mean over images is taken off.
            centred = real - real.mean(axis=0)
            noise = float(((logits - real) ** 2).sum())
            entry[label] = {
                "sqnr_db": 10 * np.log10(float((real**2).sum()) / noise),
                "centred_sqnr_db": 10 * np.log10(float((centred**2).sum()) / noise),
                "same_answer": agreement(logits, real).count,
                "of": len(images),
            }
        save("agreement", {**load().get("agreement", {}), name: entry})
        print(name, entry, flush=True)


def speed() -> None:
    """Warm times: one photograph through parc_convnext_xt, canvases through parc_canvas."""
    from parc_hw.integer import IntegerModel, choose_formats, observe, read_network
    from parc_hw.integer.model import calibration_images
    from parc_hw.measure import machine

    found: dict[str, Any] = {"machine": machine(), "threads": os.cpu_count()}
    for name, images, runs in (("parc_convnext_xt", 1, 7), ("parc_canvas", 1024, 3)):
        network, seen_on = read_network(name), calibration_images(name)
        seen = observe(network, seen_on[:64])
        x = np.resize(seen_on, (images, *seen_on.shape[1:]))  # canvases repeat: times do not care
        for bits in (8, 16):
            model = IntegerModel(network, choose_formats(network, seen, bits=bits))
            model.run(x[:64])
            times = []
            for _ in range(runs):
                start = time.perf_counter()
                model.run(x)
                times.append(time.perf_counter() - start)
            found[f"{name} int{bits}"] = {
                "images": images,
                "median_s": statistics.median(times),
                "least_s": min(times),
                "most_s": max(times),
                "runs": runs,
            }
    save("speed", found)
    print(json.dumps(found, indent=1))


FIRST_CALLS = """
import json, time
import numpy as np
from fixedpoint.integer import operators as op
from fixedpoint.integer.operators import Ending, Window
from fixedpoint.qformat import QFormat
f, end, one = QFormat(2, 6), Ending(format=QFormat(2, 6)), np.ones(4, np.int64)
wide = QFormat(4, 20)
common = dict(x=f, frac_bits=one, weight_bits=8, ending=end, name="w")
x = np.ones((1, 4, 4, 4), np.int32)
start = time.perf_counter(); import numba; loaded = time.perf_counter() - start
calls = {
    "input": lambda: op.input_words(np.ones(4), end),
    "linear, float32": lambda: op.Linear(np.ones((4, 4), np.int64), one, **common)(x),
    "linear, float64": lambda: op.Linear(
        np.full((4, 4), 1 << 20), one, **{**common, "x": wide, "frac_bits": one + 18})(x),
    "depthwise": lambda: op.Depthwise(
        np.ones((1, 1, 4), np.int64), one, Window(taps=(1, 1)), **common)(x),
    "parc": lambda: op.Parc(np.ones((4, 4), np.int64), np.ones((4, 4), np.int64), 1, **common)(x),
    "affine": lambda: op.Affine(one, one, **common)(x),
    "mean": lambda: op.Mean(16, keep=False, x=f, ending=end, name="m")(x),
    "add": lambda: op.Sum(a=f, b=f, ending=end, name="s")(x, x),
    "multiply": lambda: op.Product(a=f, b=f, ending=end, name="p")(x, x),
    "gelu": lambda: op.Activation("gelu", x=f, ending=end, name="g")(x),
    "layer_norm": lambda: op.LayerNorm(one, one, 1e-6, **common)(x),
    "softmax": lambda: op.Softmax(4, x=f, ending=end, name="s")(x),
}
found = {}
for name, call in calls.items():
    start = time.perf_counter(); call(); found[name] = round(time.perf_counter() - start, 3)
print(json.dumps(found))
"""


def first_calls() -> None:
    """Time each operator's first call with an empty numba cache, and with the cache it left."""
    from parc_hw.measure import machine

    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "NUMBA_CACHE_DIR": folder, "PYTHONPATH": str(ROOT)}
        found: dict[str, Any] = {"machine": machine()}
        for label in ("compiling_s", "cached_s"):
            text = subprocess.run(
                [sys.executable, "-c", FIRST_CALLS],
                env=environment,
                check=True,
                capture_output=True,
                text=True,
            ).stdout
            found[label] = json.loads(text)
    save("first_calls", found)
    print(json.dumps(found, indent=1))


# ------------------------------------------------------------ tables


def accuracy_table(document: dict[str, Any]) -> str:
    """Accuracy of the canvas networks by format."""
    from scipy import stats

    from parc_hw.integer.compare import Share

    lines = [
        "| network | words | test accuracy | 95 % interval | same answer as float | right in float "
        "only / in integers only | McNemar p | logits' SQNR |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, entry in document["accuracy"].items():
        seeds = entry["seeds"].values()
        of = CANVASES * len(seeds)
        for label in ("float", *VARIANTS):
            total = {
                key: sum(counts[label][key] for counts in seeds) for key in next(iter(seeds))[label]
            }
            share = Share.of_count(total["right"], of)
            cells = [
                f"`{name}`",
                label,
                f"**{share.share:.2%}** of {of:,}",
                f"{share.low:.2%} to {share.high:.2%}",
            ]
            if label == "float":
                cells += ["-"] * 4
            else:
                lost, won = total["only_float"], total["only_integer"]
                p = stats.binomtest(lost, lost + won).pvalue if lost + won else 1.0
                cells += [
                    f"{total['same_answer'] / of:.2%}",
                    f"{lost} / {won}",
                    f"{p:.2g}",
                    f"{10 * np.log10(total['signal'] / total['noise']):.1f} dB",
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def agreement_table(document: dict[str, Any]) -> str:
    """SQNR of untrained models' logits."""
    labels = ("int8 minmax", "int8 mse", "int16 minmax")
    lines = [
        "| model (untrained) | layers | " + " | ".join(f"{label}" for label in labels) + " |",
        "|---|---|" + "---|" * len(labels),
    ]
    for name in ZOO:
        entry = document["agreement"].get(name)
        if entry is not None:
            cells = [
                f"{entry[label]['sqnr_db']:.1f} dB, {entry[label]['same_answer']} of "
                f"{entry[label]['of']}"
                for label in labels
            ]
            lines.append(f"| `{name}` | {entry['layers']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def curve_table(document: dict[str, Any]) -> str:
    """The tabulated functions of docs/integer_rule.md."""
    from fixedpoint.integer import tables

    tails = {
        "gelu": "a * Phi(-a), Phi the normal distribution (exact-erf GELU)",
        "gelu_tanh": "a * S(-2 * sqrt(2 / pi) * (a + 0.044715 a**3)) (GELU's tanh form)",
        "silu": "a * S(-a), S(a) = 1 / (1 + exp(-a))",
        "hardswish": "a * max(3 - a, 0) / 6",
        "sigmoid": "S(-a)",
        "hardsigmoid": "max(3 - a, 0) / 6",
    }
    lines = ["| function | h(a) | n | error | checksum |", "|---|---|---|---|---|"]
    for name in tables.NAMES:
        words, bound = tables.table(name), tables.curve(name).error_bound
        lines.append(
            f"| {name} | {tails[name]} | {len(words) - 1} | {bound:.2g} | "
            f"`{tables.checksum(words)}` |"
        )
    words = tables.exponential()
    lines.append(f"| (softmax) | exp(-a) | {len(words) - 1} | - | `{tables.checksum(words)}` |")
    return "\n".join(lines)


TABLES = (
    (ACCURACY, "integer accuracy", accuracy_table),
    (ACCURACY, "integer agreement", agreement_table),
    (RULE, "tables", curve_table),
)


def update_pages() -> None:
    """Put every table between its marks."""
    document = load()
    for page, mark, make in TABLES:
        begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
        before, found, rest = page.read_text().partition(begin)
        assert found, f"{page} has no {begin}"
        _, _, after = rest.partition(end)
        page.write_text(f"{before}{begin}\n{make(document)}\n{end}{after}")


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=("accuracy", "agreement", "speed", "first_calls", "tables"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", default="0:20", help="first:last of the test canvases")
    arguments = parser.parse_args()
    if arguments.part == "accuracy":
        first, last = map(int, arguments.seeds.split(":"))
        for name in arguments.names or ("parc_canvas", "conv_canvas"):
            accuracy_of(name, first, last)
    elif arguments.part == "agreement":
        agreement_of(arguments.names or list(ZOO))
    else:
        {"speed": speed, "first_calls": first_calls, "tables": update_pages}[arguments.part]()


if __name__ == "__main__":
    main()
