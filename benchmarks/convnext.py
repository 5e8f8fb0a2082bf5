"""How far are our ConvNeXts from ONNX Runtime and PyTorch on this machine, with one thread?

    python benchmarks/convnext.py [--seconds S]

Writes `benchmarks/results/convnext.json`. The goal is at most twice ONNX Runtime's time.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

import parc_hw
from parc_hw import measure
from parc_hw.cli.session import DEFAULT_SEED, Session, table

MODELS = ("convnext_xt", "parc_convnext_xt")
GOAL = 2.0
RESULTS = Path(__file__).resolve().parent / "results"


def measure_model(model: str, seconds: float, session: Session) -> list[measure.Series]:
    """Compile a model for this machine and measure it between its peers."""
    shape = tuple(parc_hw.models.info(model).input_shape)
    with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
        bundle = Path(directory) / model
        onnx = Path(directory) / "model.onnx"
        with session.progress() as progress:
            parc_hw.compile(
                model, output=bundle, seed=DEFAULT_SEED, verify=False, progress=progress
            )
        measure.export_onnx(model, onnx, shape=shape, seed=DEFAULT_SEED)
        sources = {"parc_hw": str(bundle), "onnxruntime": str(onnx), "torch": model}
        jobs = [
            measure.Job(
                runtime=runtime, threads=1, source=source, shapes=(shape,), seed=DEFAULT_SEED
            )
            for runtime, source in sources.items()
        ]
        return measure.measure(jobs, seconds=seconds)


def main() -> int:
    """Measure, print and write; status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="measuring time of each")
    seconds = parser.parse_args().seconds
    session = Session()
    documents = {}
    numbers = ("median ms", "10 % to 90 %", "runs", "of ONNX Runtime")
    rows = table("model", "runtime", *numbers, "same numbers", right=numbers)
    missed = []
    for model in MODELS:
        series = measure_model(model, seconds, session)
        documents[model] = json.loads(measure.to_json(series, model=model))
        peer = next(one for one in series if one.job.runtime == "onnxruntime")
        for one in series:
            rows.add_row(
                model,
                one.job.runtime,
                f"{1e3 * one.median_s:.2f}",
                f"{1e3 * one.p10_s:.2f} to {1e3 * one.p90_s:.2f}",
                str(len(one.times_s)),
                f"{one.median_s / peer.median_s:.2f}",
                "yes" if one.max_difference <= 1e-3 else f"no: {one.max_difference:.1e} std",
            )
        ratio = series[0].median_s / peer.median_s
        if ratio > GOAL:
            missed.append(
                f"{model} takes {ratio:.2f} times ONNX Runtime's time; the goal is {GOAL}"
            )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "convnext.json").write_text(json.dumps(documents, indent=2) + "\n")
    session.out.print(rows)
    session.out.print(f"{measure.machine()['cpu']}, 1 thread, interleaved")
    for line in missed:
        session.warn(line)
    return 1 if missed else 0


if __name__ == "__main__":
    # torch.export warns about its own use of a deprecated class.
    warnings.filterwarnings("ignore", category=FutureWarning)
    sys.exit(main())
