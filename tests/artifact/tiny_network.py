"""A tiny network written by hand, so that bundles are tested without the compiler."""

from __future__ import annotations

import dataclasses
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from parc_hw.artifact import Bundle, Vectors, find_emulator, find_toolchain, layer_samples
from parc_hw.artifact.writer import write_bundle
from parc_hw.device import Device
from parc_hw.lower.program import Call, Kernel, Layer, Operand, Place, Program, ShapePlan, Tensor

HERE = Path(__file__).parent
TARGETS = [
    "host",
    pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


class Tiny:
    """The network: its constants, its float64 reference and its Program.

    It takes images of 6 columns and of any of `heights` rows.
    """

    def __init__(self, seed: int = 0, heights: tuple[int, ...] = (8,)) -> None:
        random = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return random.standard_normal(shape).astype(np.float32)

        self.heights = heights
        self.constants = [draw(3), draw(3, 16), draw(16), draw(16, 5)]
        self.images_of = {height: [draw(1, 3, height, 6) for _ in range(2)] for height in heights}
        self.images = self.images_of[heights[0]]

    def layers(self, x: np.ndarray) -> list[np.ndarray]:
        """Values of all layers in logical order."""
        scale, weight, bias, head = (c.astype(np.float64) for c in self.constants)
        scaled = x * scale[:, None, None]
        summed = np.einsum("bchw,co->bohw", scaled, weight) + bias[:, None, None]
        hidden = 1.0 / (1.0 + np.exp(-summed))
        mean = hidden.mean(axis=(2, 3))
        return [scaled, hidden, mean, mean @ head, hidden]

    def outputs(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Class values and the hidden map."""
        values = self.layers(x)
        return values[3].astype(np.float32), values[4].astype(np.float32)

    def vectors(self, height: int | None = None) -> Vectors:
        """What the bundle stores for one height."""
        orders = [(0, 2, 3, 1), (0, 2, 3, 1), (0, 1), (0, 1), (0, 1, 2, 3)]
        images = self.images_of[height or self.heights[0]]
        values = self.layers(images[0])
        return Vectors(
            inputs=[(x,) for x in images],
            outputs=[self.outputs(x) for x in images],
            layers={i: layer_samples(values[i], orders[i]) for i in range(5)},
        )

    def program(self, device: Device, scratch: Path, *, text: str | None = None) -> Program:
        """The flat program; its kernels are compiled from kernels.c, once for each height.

        The head, kernel 3, does not depend on the height: that of the first serves all.
        """
        tools = find_toolchain(device)
        text = text or (HERE / "kernels.c").read_text()
        blob, at = bytearray(), []
        for constant in self.constants:
            blob.extend(bytes(-len(blob) % 64))
            at.append(Operand(place=Place.WEIGHTS, offset_bytes=len(blob)))
            blob.extend(constant.tobytes())
        objects, kernels, shapes = [], [], []
        for number, height in enumerate(self.heights):
            prefix = f"parc_h{height}_k" if number else "parc_k"
            names = [
                f"#define HEIGHT {height}",
                f"#define KERNEL(number) {prefix}##number",
                f"#define HELPER {f'helper{height}' if number else 'helper'}",
            ]
            path = scratch / f"kernels{height}.o"
            tools.compile_object("\n".join([*names, text]), path)
            objects.append(path.read_bytes())
            numbers = []
            for k, (a, e, s) in enumerate(
                [(3, height, 0), (4, height, 384), (2, 0, 0), (3, 0, 20), (2, 16, 0)]
            ):
                if number == 0 or k != 3:
                    numbers.append(len(kernels))
                    kernel = Kernel(symbol=f"{prefix}{k}", arguments=a, extent=e, scratch_bytes=s)
                    kernels.append(kernel)
                else:
                    numbers.append(3)
            shapes.append(self._shape(height, numbers, at))
        return Program(
            shapes=tuple(shapes),
            kernels=tuple(kernels),
            weights=bytes(blob),
            objects=tuple(objects),
        )

    @staticmethod
    def _shape(height: int, kernels: list[int], at: list[Operand]) -> ShapePlan:
        """The calls for images of one height."""
        offsets = (0, 80 * height, 464 * height)  # 3, then 16 floats of each of 6 columns, aligned
        scaled, hidden, mean = (Operand(place=Place.ARENA, offset_bytes=o) for o in offsets)
        x, classes, maps = (
            Operand(place=Place.INPUT),
            Operand(place=Place.OUTPUT),
            Operand(place=Place.OUTPUT, index=1),
        )
        calls = [
            (x, at[0], scaled),
            (scaled, at[1], at[2], hidden),
            (hidden, mean),
            (mean, at[3], classes),
            (hidden, maps),
        ]
        nhwc = (0, 2, 3, 1)
        shapes = [
            ((1, height, 6, 3), nhwc),
            ((1, height, 6, 16), nhwc),
            ((1, 16), (0, 1)),
            ((1, 5), (0, 1)),
            ((1, 16, height, 6), (0, 1, 2, 3)),
        ]
        all_ops = ["multiply", "matmul.sigmoid", "mean", "matmul", "copy"]
        return ShapePlan(
            inputs=(Tensor(name="image", shape=(1, 3, height, 6)),),
            outputs=(
                Tensor(name="classes", shape=(1, 5)),
                Tensor(name="map", shape=(1, 16, height, 6)),
            ),
            calls=tuple(
                Call(kernel=kernel, operands=operands, layer=k)
                for k, (kernel, operands) in enumerate(zip(kernels, calls, strict=True))
            ),
            layers=tuple(
                Layer(
                    name=f"stage.{k}",
                    source=f"node_{k}",
                    ops=ops,
                    rule="by_hand",
                    note="",
                    macs=10**9,  # so much that threads divide even these small loops
                    shape=shape,
                    order=order,
                    output=calls[k][-1],
                )
                for k, ((shape, order), ops) in enumerate(zip(shapes, all_ops, strict=True))
            ),
            arena_bytes=offsets[-1] + 64,
            live_peak_bytes=offsets[-1],
        )


@dataclasses.dataclass
class Built:
    """A bundle of the tiny network and what it was made of."""

    tiny: Tiny
    device: Device
    program: Program
    bundle: Bundle

    def write(self, path: Path, **changes: Any) -> Bundle:
        """Write the same bundle somewhere else, or with changed arguments."""
        arguments: dict[str, Any] = {
            "program": self.program,
            "name": "tiny",
            "device": self.device,
            "vectors": [self.tiny.vectors(height) for height in self.tiny.heights],
            "source": {"model": "tiny", "weights": "by hand"},
            "tool_versions": {"numpy": "2"},
        }
        return write_bundle(path, **{**arguments, **changes})

    def run_program(self, program: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a static program in the bundle's directory, emulated where needed."""
        command = find_emulator(self.device).command(program, arguments)
        return subprocess.run(
            command, cwd=self.bundle.path, capture_output=True, text=True, check=False
        )

    def compile_program(self, output: Path, *sources: Path | str) -> Path:
        """Build a program as a user does: the compiler of the target and the bundle's files."""
        root = self.bundle.path
        cc = "cc" if self.device.qemu is None else f"{self.device.gnu_triple}-gcc"
        flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic", "-static"]
        includes = [f"-I{root / 'include'}"]
        library = [str(root / "lib" / "libtiny.a")]
        command = [cc, *flags, *includes, *map(str, sources), *library, "-lm", "-o", str(output)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return output
