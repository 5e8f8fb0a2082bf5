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
from parc_hw.lower.program import Call, Kernel, Layer, Operand, Place, Program, Tensor

HERE = Path(__file__).parent
TARGETS = [
    "host",
    pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


class Tiny:
    """The network: its constants, its float64 reference and its Program."""

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)

        def draw(*shape: int) -> np.ndarray:
            return random.standard_normal(shape).astype(np.float32)

        self.constants = [draw(3), draw(3, 16), draw(16), draw(16, 5)]
        self.images = [draw(1, 3, 8, 6) for _ in range(2)]

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

    def vectors(self) -> Vectors:
        """What the bundle stores."""
        orders = [(0, 2, 3, 1), (0, 2, 3, 1), (0, 1), (0, 1), (0, 1, 2, 3)]
        values = self.layers(self.images[0])
        return Vectors(
            inputs=[(x,) for x in self.images],
            outputs=[self.outputs(x) for x in self.images],
            layers={i: layer_samples(values[i], orders[i]) for i in range(5)},
        )

    def program(self, device: Device, scratch: Path, *, text: str | None = None) -> Program:
        """The flat program; its kernels are compiled from kernels.c."""
        tools = find_toolchain(device)
        tools.compile_object(text or (HERE / "kernels.c").read_text(), scratch / "kernels.o")
        blob, at = bytearray(), []
        for constant in self.constants:
            blob.extend(bytes(-len(blob) % 64))
            at.append(Operand(place=Place.WEIGHTS, offset_bytes=len(blob)))
            blob.extend(constant.tobytes())
        scaled, hidden, mean = (
            Operand(place=Place.ARENA, offset_bytes=offset) for offset in (0, 640, 3712)
        )
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
            ((1, 8, 6, 3), nhwc),
            ((1, 8, 6, 16), nhwc),
            ((1, 16), (0, 1)),
            ((1, 5), (0, 1)),
            ((1, 16, 8, 6), (0, 1, 2, 3)),
        ]
        kernels = [(3, 8, 0), (4, 8, 384), (2, 0, 0), (3, 0, 20), (2, 16, 0)]
        return Program(
            inputs=(Tensor(name="image", shape=(1, 3, 8, 6)),),
            outputs=(
                Tensor(name="classes", shape=(1, 5)),
                Tensor(name="map", shape=(1, 16, 8, 6)),
            ),
            kernels=tuple(
                Kernel(symbol=f"parc_k{k}", arguments=a, extent=e, scratch_bytes=s)
                for k, (a, e, s) in enumerate(kernels)
            ),
            calls=tuple(
                Call(kernel=k, operands=operands, layer=k) for k, operands in enumerate(calls)
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
                for k, ((shape, order), ops) in enumerate(
                    zip(
                        shapes,
                        ["multiply", "matmul.sigmoid", "mean", "matmul", "copy"],
                        strict=True,
                    )
                )
            ),
            arena_bytes=3712 + 64,
            live_peak_bytes=3712,
            weights=bytes(blob),
            objects=((scratch / "kernels.o").read_bytes(),),
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
            "vectors": self.tiny.vectors(),
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
