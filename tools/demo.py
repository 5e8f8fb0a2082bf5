"""What does parc_hw do? Two networks, compiled for this machine and an ARM board, run, verified.

make demo
"""

from __future__ import annotations

import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import parc_hw
from parc_hw import measure
from parc_hw.artifact import verify_bundle
from parc_hw.cli.session import Session, table
from parc_hw.device import load_device
from parc_hw.errors import ParcError, ToolchainError

ROOT = Path(__file__).resolve().parent.parent
ARM = "rk3288"  # the board of the papers
MODELS = {"parc_canvas": "canvas.npy", "parc_convnext_xt": "image.npy"}
SECONDS = 2.0


@dataclass(frozen=True)
class Line:
    """One row of the table."""

    model: str
    target: str
    ours: int
    theirs: int
    error: float
    compile_s: float
    run_ms: float | None
    code_bytes: int
    weights_bytes: int


def main() -> int:
    """Compile, run, verify and print."""
    console = Console(highlight=False)
    console.print(
        f"Two networks for this machine and for {ARM} (ARMv7, run under qemu): about 3 minutes "
        "on 2 cores.\nBundles go to build/demo; nothing is measured under qemu, since its times "
        "mean nothing.\n",
        soft_wrap=True,
    )
    targets, left_out = ["host"], ""
    try:
        from parc_hw.artifact import find_emulator, find_toolchain

        find_toolchain(load_device(ARM))
        find_emulator(load_device(ARM))
        targets.append(ARM)
    except ToolchainError as error:
        left_out = f"Left out: {ARM}. {error}"
        console.print(left_out + "\n", style="yellow", markup=False, soft_wrap=True)

    lines = [_one(model, target) for model in MODELS for target in targets]
    numbers = ("error", "compile\ns", "run\nms", "code\nKiB", "weights\nKiB")
    shown = table("model", "target", "class", "PyTorch", *numbers, right=numbers)
    for line in lines:
        shown.add_row(
            line.model,
            line.target,
            str(line.ours),
            str(line.theirs),
            f"{line.error:.1e}",
            f"{line.compile_s:.0f}",
            "-" if line.run_ms is None else f"{line.run_ms:.2f}",
            f"{line.code_bytes / 1024:.0f}",
            f"{line.weights_bytes / 1024:.0f}",
        )
    console.print()
    console.print(shown)
    console.print(
        "error: the largest of any output against PyTorch, in standard deviations of the outputs; "
        "1e-3 is accepted.\nrun ms: median of one thread on this machine "
        f"({measure.machine()['cpu']}).\nparc_canvas is trained: its class is the digit nearest "
        "the top left corner of examples/canvas.npy.\nparc_convnext_xt is untrained, its class "
        "means nothing; that both compute the same one is the point.",
        markup=False,
        soft_wrap=True,
    )
    if left_out:
        console.print(left_out, style="yellow", markup=False, soft_wrap=True)
    return 0 if all(line.ours == line.theirs for line in lines) else 4


def _one(model: str, target: str) -> Line:
    """Compile one model for one target, verify it and run it on its example."""
    x = np.load(ROOT / "examples" / MODELS[model])
    directory = ROOT / "build" / "demo" / f"{model}-{target}"
    session = Session()
    session.note(f"{model} for {target}")
    began = time.monotonic()
    with session.progress() as progress:
        bundle = parc_hw.compile(
            model,
            target=target,
            output=directory,
            verify=False,
            force=True,
            progress=progress,
        )
    seconds = time.monotonic() - began
    report = verify_bundle(bundle)
    if not report.passed:
        sys.exit(f"{model} for {target} does not compute what PyTorch computes: {report}")
    return Line(
        model=model,
        target=target,
        ours=int(np.argmax(bundle.run(x))),
        theirs=int(np.argmax(_pytorch(model, x))),
        error=report.worst,
        compile_s=seconds,
        run_ms=_time(directory, x) if bundle.device.runs_here else None,
        code_bytes=bundle.manifest["memory"]["code_bytes"],
        weights_bytes=bundle.manifest["weights"]["bytes"],
    )


def _pytorch(model: str, x: np.ndarray) -> Any:
    import torch

    module, _ = parc_hw.models.prepare(model)
    with torch.inference_mode():
        return module(torch.from_numpy(x)).numpy()


def _time(directory: Path, x: np.ndarray) -> float:
    """Median of one inference with one thread, in milliseconds."""
    job = measure.Job(
        runtime="parc_hw", threads=1, source=str(directory), shapes=(x.shape,), seed=0
    )
    return 1e3 * measure.measure([job], seconds=SECONDS)[0].median_s


if __name__ == "__main__":
    # torch.export warns about its own use of a deprecated class.
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        sys.exit(main())
    except ParcError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
