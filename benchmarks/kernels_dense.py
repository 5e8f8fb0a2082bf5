"""How fast are the dense kernels here, beside torch and numpy in the same interleaved run?

    python benchmarks/kernels_dense.py [--rounds N] [--output FILE.json]

One thread. GFLOP/s counts 2 M K N; times are medians over the rounds, the spread is
(largest - smallest) / median. torch computes the same epilogue, numpy the product alone.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import numpy as np
import torch

from parc_hw.device import load_device
from schedules.aot import KernelSignature, compile_kernels
from schedules.cpu.conv import conv
from schedules.cpu.matmul import matmul
from schedules.rule import Composite, Context, Node, NotApplicable, Ref, Rule

# M, K, N, epilogue: the linear layers of ConvNeXt-XT, and others that are shaped differently.
MATMULS = [
    (3136, 48, 192, "gelu"),
    (3136, 192, 48, "residual"),
    (784, 96, 384, "gelu"),
    (784, 384, 96, "residual"),
    (196, 192, 768, "gelu"),
    (196, 768, 192, "residual"),
    (49, 384, 1536, "gelu"),
    (49, 1536, 384, "residual"),
    (12544, 16, 96, ""),
    (1, 384, 1000, ""),
]
# C_in, C_out, size, kernel, stride, padding, input NCHW
CONVS = [
    (3, 48, 224, 4, 4, 0, True),
    (48, 96, 56, 2, 2, 0, False),
    (96, 192, 28, 2, 2, 0, False),
    (64, 64, 56, 3, 1, 1, False),
    (128, 128, 28, 3, 1, 1, False),
    (3, 64, 224, 7, 2, 3, True),
]


def callable_kernel(
    rule: Rule, composite: Composite, inputs: list[np.ndarray], folder: Path
) -> tuple[Callable[[], None], np.ndarray, str]:
    """A function of no arguments that runs the kernel, its output array, and the rule's note."""
    device = load_device("host")
    scheduled = rule(composite, Context(device=device))
    if isinstance(scheduled, NotApplicable):
        raise SystemExit(f"{scheduled.rule}: {scheduled.reason}")
    started = time.perf_counter()
    compiled = compile_kernels([scheduled.func], device, prefix="bench")
    seconds = time.perf_counter() - started
    (folder / "k.o").write_bytes(compiled.objects[0])
    library = folder / f"k{len(list(folder.iterdir()))}.so"
    subprocess.run(["gcc", "-shared", folder / "k.o", "-lm", "-o", library], check=True)
    (kernel,) = compiled.kernels
    output = aligned(np.zeros(composite.shape, np.float32))
    arrays = [aligned(inputs[i]) for i in scheduled.inputs]
    arrays += [aligned(c) for c in scheduled.constants] + [output]
    call = bind(ctypes.CDLL(str(library)), kernel, arrays)
    return call, output, f"{scheduled.note}; compiled in {seconds:.2f} s"


def bind(
    library: ctypes.CDLL, kernel: KernelSignature, arrays: list[np.ndarray]
) -> Callable[[], None]:
    """The kernel over its whole range, on these arrays."""
    function = getattr(library, kernel.symbol)
    arguments: list[object] = [ctypes.c_void_p(a.ctypes.data) for a in arrays]
    if kernel.extent:
        arguments += [ctypes.c_int32(0), ctypes.c_int32(kernel.extent)]
    scratch = aligned(np.zeros(kernel.scratch_bytes // 4 + 1, np.float32))
    if kernel.scratch_bytes:
        arguments.append(ctypes.c_void_p(scratch.ctypes.data))

    def call(keep: object = (arrays, scratch)) -> None:
        function(*arguments)

    return call


def aligned(array: np.ndarray) -> np.ndarray:
    """A copy whose data begin at a multiple of 64 bytes."""
    room = np.zeros(array.nbytes + 64, np.uint8)
    start = -room.ctypes.data % 64
    copy = room[start : start + array.nbytes].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


def interleaved(functions: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds per call of every function, in turns, each turn about 10 ms."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            function()
            repeats = max(1, int(0.01 / seconds[name][-1])) if seconds[name] else 1
            started = time.perf_counter()
            for _ in range(repeats):
                function()
            seconds[name].append((time.perf_counter() - started) / repeats)
    return seconds


def matmul_case(m: int, k: int, n: int, epilogue: str, folder: Path, rounds: int) -> dict:
    """One linear layer."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((m, k), dtype=np.float32)
    w = rng.standard_normal((k, n), dtype=np.float32) / np.float32(np.sqrt(k))
    b = rng.standard_normal(n, dtype=np.float32)
    r = rng.standard_normal((m, n), dtype=np.float32)
    value = Ref("node", 1)
    nodes = [
        Node(op="relax.matmul", args=(Ref("input", 0), w), attrs={}, shape=(m, n)),
        Node(op="relax.add", args=(Ref("node", 0), b), attrs={}, shape=(m, n)),
    ]
    if epilogue == "gelu":
        nodes.append(Node(op="relax.nn.gelu", args=(value,), attrs={}, shape=(m, n)))
    if epilogue == "residual":
        add = Node(op="relax.add", args=(value, Ref("input", 1)), attrs={}, shape=(m, n))
        nodes.append(add)
    composite = Composite(inputs=((m, k), (m, n)), nodes=tuple(nodes))
    ours, y, note = callable_kernel(matmul, composite, [x, r], folder)
    tx, tw, tb, tr = (torch.from_numpy(a) for a in (x, np.ascontiguousarray(w.T), b, r))

    def peer() -> torch.Tensor:
        result = torch.nn.functional.linear(tx, tw, tb)
        if epilogue == "gelu":
            return torch.nn.functional.gelu(result)
        return result.add_(tr) if epilogue == "residual" else result

    ours()
    worst = float(np.abs(y - peer().numpy()).max())
    out = np.empty((m, n), np.float32)
    functions = {"ours": ours, "torch": peer, "numpy product": lambda: np.matmul(x, w, out=out)}
    name = f"{m}x{k}->{n} {epilogue}".strip()
    return result(name, note, worst, 2 * m * k * n, interleaved(functions, rounds))


def conv_case(
    ci: int, co: int, size: int, k: int, s: int, p: int, nchw: bool, folder: Path, rounds: int
) -> dict:
    """One convolution, without activation."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, ci, size, size), dtype=np.float32)
    w = rng.standard_normal((co, ci, k, k), dtype=np.float32) / np.float32(np.sqrt(ci * k * k))
    b = rng.standard_normal(co, dtype=np.float32)
    tx, tw, tb = torch.from_numpy(x), torch.from_numpy(w), torch.from_numpy(b)
    if not nchw:
        tx, tw = (t.contiguous(memory_format=torch.channels_last) for t in (tx, tw))
    out = (size + 2 * p - k) // s + 1
    attrs = {
        "strides": (s, s),
        "padding": (p, p, p, p),
        "dilation": (1, 1),
        "groups": 1,
        "data_layout": "NCHW" if nchw else "NHWC",
        "kernel_layout": "OIHW" if nchw else "OHWI",
        "out_layout": "NHWC",
    }
    shape = (1, out, out, co)
    data = x if nchw else np.ascontiguousarray(x.transpose(0, 2, 3, 1))
    kernel = w if nchw else np.ascontiguousarray(w.transpose(0, 2, 3, 1))
    nodes = (
        Node(op="relax.nn.conv2d", args=(Ref("input", 0), kernel), attrs=attrs, shape=shape),
        Node(op="relax.add", args=(Ref("node", 0), b), attrs={}, shape=shape),
    )
    composite = Composite(inputs=(data.shape,), nodes=nodes)
    ours, y, note = callable_kernel(conv, composite, [data], folder)

    def peer() -> torch.Tensor:
        return torch.nn.functional.conv2d(tx, tw, tb, stride=s, padding=p)

    ours()
    worst = float(np.abs(y - peer().permute(0, 2, 3, 1).numpy()).max())
    name = f"conv {k}x{k} s{s} {ci}->{co} {size}" + (" NCHW in" if nchw else "")
    flops = 2 * out * out * co * ci * k * k
    return result(name, note, worst, flops, interleaved({"ours": ours, "torch": peer}, rounds))


def result(name: str, note: str, worst: float, flops: int, seconds: dict[str, list[float]]) -> dict:
    """Print one line and return the same as a record."""
    record: dict = {"case": name, "note": note, "max_abs_difference": worst}
    texts = []
    for peer, times in seconds.items():
        median = statistics.median(times)
        record[peer] = {
            "median_s": median,
            "spread": (max(times) - min(times)) / median,
            "gflops": flops / median / 1e9,
        }
        texts.append(f"{peer} {flops / median / 1e9:6.1f} GFLOP/s ({median * 1e3:.3f} ms)")
    print(f"{name:34s} {' | '.join(texts)} | {note} | differs by {worst:.0e}", flush=True)
    return record


def main() -> None:
    """Run every case, print it, and write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        folder = Path(name)
        records = [matmul_case(*case, folder, arguments.rounds) for case in MATMULS]
        records += [conv_case(*case, folder, arguments.rounds) for case in CONVS]
    if arguments.output:
        device = load_device("host")
        report = {"device": device.name, "rounds": arguments.rounds, "cases": records}
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
