"""How far are the kernels' float32 results from float64, in units of the bound that they are held to?

    python benchmarks/parc_error.py [--cases N] [--kernels N] [--seed N] [--output FILE.json]

A case is a kernel on random numbers: length, plan, layout, axis, depthwise, dense or halves, shape,
channels, with and without position embedding and bias. Magnitudes spread over many orders, between
the operands and within each. The bound is `docs/operator.md`'s for every line on its own,

    |y - float64|  <=  (depth + 1) 2^-24 (sum|w| (max|x| + max|pe|) + |b|)

with the depth of the plan that is computed (`parc_hw.dataflow.plan_depth`), not of the worst one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from parc_hw.dataflow import plan_depth
from parc_hw.device import Device, load_device
from parc_hw.operator import schedule_parc
from parc_hw.plan import MAX_TRANSFORM, SplitPlan
from parc_hw.reference import parc_bound
from schedules.jit import LoadedKernel, aligned, load_kernel, scratch_memory

RESULTS = Path(__file__).parent / "results" / "parc_error.json"
LENGTHS = (7, 8, 10, 14, 16, 20, 28, 32, 40, 56, 64, 84, 100, 112)  # of the zoo; half of the draws
INPUTS = 10  # cases that share their weights
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Kernel:
    """What is compiled once and computes many cases."""

    axis: str  # H, W or half
    layout: str
    shape: tuple[int, int, int, int]  # (B, C, H, W)
    outputs: int  # 0: depthwise
    plan: str

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Kernel:
        """A random one, of at most a few thousand outputs."""
        axis = str(rng.choice(["H", "W", "half"], p=[0.4, 0.4, 0.2]))
        n = int(rng.choice(LENGTHS) if rng.random() < 0.5 else rng.integers(1, 129))
        dense = axis != "half" and rng.random() < 0.2
        channels = int(rng.integers(2, 40))
        other = n if axis == "half" else int(rng.integers(1, 20))
        batch = int(rng.integers(1, 3))
        shape = (batch, channels, other, n) if axis == "W" else (batch, channels, n, other)
        factors = [k for k in range(1, min(n, MAX_TRANSFORM) + 1) if n % k == 0]
        n1 = int(rng.choice(factors))
        return cls(
            axis=axis,
            layout=str(rng.choice(["NCHW", "NHWC"])),
            shape=shape,
            outputs=int(rng.integers(1, 40)) if dense else 0,
            plan=f"{n1}x{n // n1}",
        )

    def stored(self, x: Array) -> Array:
        """As it lies in memory."""
        return x if self.layout == "NCHW" else np.ascontiguousarray(x.transpose(0, 2, 3, 1))

    def parts(self) -> list[tuple[str, slice]]:
        """Axis and channels of each correlation."""
        channels = self.shape[1]
        if self.axis != "half":
            return [(self.axis, slice(0, channels))]
        return [("H", slice(0, channels // 2)), ("W", slice(channels // 2, channels))]


@dataclass(frozen=True)
class Case:
    """One kernel on one draw of numbers, and how large its error was."""

    kernel: Kernel
    position_embedding: bool
    bias: bool
    spread: float  # orders of magnitude within each operand
    error: float  # in units of the bound


def spread_numbers(
    rng: np.random.Generator, shape: tuple[int, ...], spread: float, scale: float
) -> Array:
    """Normal numbers of size `scale`, each down to 10**-spread of it."""
    powers = rng.uniform(-spread, 0, shape)
    return (rng.standard_normal(shape) * scale * 10.0**powers).astype(np.float32)


def measure(
    kernel: Kernel, device: Device, rng: np.random.Generator, repeats: int
) -> Iterator[Case]:
    """`repeats` cases of a kernel; some of them share weights."""
    loaded: LoadedKernel | None = None
    while repeats:
        weights, embeddings, biases = [], [], []
        spread = float(rng.choice([0.0, 0.0, 3.0, 8.0]))
        with_embedding, with_bias = (bool(b) for b in rng.random(2) < 0.5)
        scale = 10 ** rng.uniform(-9, 9)  # of the input
        for axis, channels in kernel.parts():
            c = channels.stop - channels.start
            n = kernel.shape[2 if axis == "H" else 3]
            shape = (kernel.outputs, c, n) if kernel.outputs else (c, n)
            weights.append(spread_numbers(rng, shape, spread, 10 ** rng.uniform(-9, 9)))
            embeddings.append(spread_numbers(rng, (c, n), spread, scale * with_embedding))
            # of the size of the result, above it and below
            size = float(abs(weights[-1]).max()) * scale * 10 ** rng.uniform(-3, 3) * with_bias
            biases.append(spread_numbers(rng, shape[:1], spread, size))
        single = len(weights) == 1
        batch, channels_in, height, width = kernel.shape
        _, scheduled = schedule_parc(
            weights[0] if single else weights,
            kernel.axis,
            kernel.shape if kernel.layout == "NCHW" else (batch, height, width, channels_in),
            position_embedding=embeddings[0] if single else embeddings,
            bias=np.concatenate(biases),
            device=device,
            plan=kernel.plan,
            layout=kernel.layout,
        )
        loaded = loaded or load_kernel(scheduled.func, device)
        for _ in range(min(repeats, INPUTS)):
            repeats -= 1
            x = spread_numbers(rng, kernel.shape, spread, scale)
            result = run(loaded, kernel.stored(x), scheduled.constants, kernel)
            worst, first = 0.0, 0
            for (axis, channels), w, pe, b in zip(
                kernel.parts(), weights, embeddings, biases, strict=True
            ):
                plan = SplitPlan.parse(kernel.plan, length=w.shape[-1])
                bound = parc_bound(
                    x[:, channels],
                    w,
                    axis=axis,
                    depth=plan_depth(plan, w.shape[1] if w.ndim == 3 else 1),
                    position_embedding=pe,
                    bias=b,
                )
                error = abs(
                    result[:, first : first + len(w)] - exact(x[:, channels], axis, w, pe, b)
                )
                first += len(w)
                worst = max(worst, float(np.max(error / bound)))
            yield Case(kernel, with_embedding, with_bias, spread, worst)


def exact(x: Array, axis: str, w: Array, pe: Array, b: Array) -> NDArray[np.float64]:
    """Equations 3 and 4 by numpy's float64 FFT, whose own error is below 1e-7 of the bound."""
    lines = x.astype(float) if axis == "W" else x.astype(float).swapaxes(2, 3)
    lines = lines + pe.astype(float)[:, None]
    spectrum = np.fft.rfft(lines)
    kernel = np.conj(np.fft.rfft(w.astype(float)))
    if w.ndim == 3:
        product = np.einsum("bclf,ocf->bolf", spectrum, kernel, optimize=True)
    else:
        product = spectrum * kernel[:, None]
    y = np.fft.irfft(product, w.shape[-1]) + b.astype(float).reshape(-1, 1, 1)
    return y if axis == "W" else y.swapaxes(2, 3)


def run(
    loaded: LoadedKernel, x: Array, constants: tuple[NDArray[np.float32], ...], kernel: Kernel
) -> Array:
    """Result in NCHW."""
    batch, channels, height, width = kernel.shape
    outputs = kernel.outputs or channels
    y = np.full(batch * outputs * height * width, np.nan, np.float32)
    arrays = [x, *(aligned(c) for c in constants), y]
    scratch = scratch_memory(loaded.signature.scratch_bytes)
    job = loaded.job([a.ctypes.data for a in arrays], [scratch.ctypes.data], shares=1, wakes=False)
    loaded.share(job.ctypes.data, 0, 0)
    if kernel.layout == "NCHW":
        return y.reshape(batch, outputs, height, width)
    return y.reshape(batch, height, width, outputs).transpose(0, 3, 1, 2)


def survey(cases: int, kernels: int, seed: int) -> list[Case]:
    """That many cases on so many kernels."""
    device = load_device("host")
    rng = np.random.default_rng(seed)
    found: list[Case] = []
    for number in range(kernels):
        repeats = cases * (number + 1) // kernels - cases * number // kernels
        found += measure(Kernel.draw(rng), device, rng, repeats)
    return found


def report(cases: list[Case], kernels: int, seed: int) -> dict[str, object]:
    """What is written as JSON."""
    errors = np.array([case.error for case in cases])
    direct = np.array([case.kernel.plan.startswith("1x") for case in cases])
    return {
        "device": load_device("host").name,
        "cases": len(cases),
        "kernels": kernels,
        "seed": seed,
        "unit": "(depth + 1) 2^-24 (sum|w| (max|x| + max|pe|) + |b|) of a line",
        "within_bound": int((errors <= 1).sum()),
        "worst": float(errors.max()),
        "worst_direct": float(errors[direct].max(initial=0.0)),
        "worst_split": float(errors[~direct].max(initial=0.0)),
        "median": float(np.median(errors)),
        "percentile_99": float(np.percentile(errors, 99)),
        "worst_cases": [asdict(case) for case in sorted(cases, key=lambda c: -c.error)[:5]],
    }


def main() -> None:
    """Survey, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--kernels", type=int, default=250)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    found = survey(arguments.cases, arguments.kernels, arguments.seed)
    result = report(found, arguments.kernels, arguments.seed)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{result['cases']} cases on {result['kernels']} kernels: worst {result['worst']:.3f} of the "
        f"bound (direct {result['worst_direct']:.3f}, split {result['worst_split']:.3f}), "
        f"99 % below {result['percentile_99']:.3f}, median {result['median']:.4f}"
    )


if __name__ == "__main__":
    main()
