"""Is one TOML file all that a new CPU takes?"""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from parc_hw.artifact import TOLERANCE, Bundle
from parc_hw.build import analyze, compile
from parc_hw.cli.main import main
from parc_hw.device import NUMBERS, load_device
from parc_hw.models import prepare
from parc_hw.nn import ParC
from parc_hw.profile import count_bundle

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

# An in-order core with fewer registers and smaller caches than any that is described, which
# tells neither its line nor its number of cores.
ARM = """
name = "made-up-arm"
title = "A core of our own"
isa = "aarch64"
triple = "aarch64-linux-gnu"
cpu = "cortex-a53"
features = ["+neon"]
gnu_triple = "aarch64-linux-gnu"
zig_target = "aarch64-linux-musl"
zig_cpu = "cortex_a53"
qemu = "qemu-aarch64-static"
qemu_cpu = "cortex-a53"
vector_bits = 128
vector_registers = 20
l1d_bytes = 8_192
l2_bytes = 65_536

[sources]
vector_bits = "made up"
vector_registers = "made up"
l1d_bytes = "made up"
l2_bytes = "made up"
l3_bytes = "unknown: nobody made it up"
line_bytes = "unknown: nobody made it up"
cores = "unknown: nobody made it up"
clock_hz = "unknown: nobody made it up"
"""


@pytest.fixture
def arm(tmp_path):
    file = tmp_path / "made-up-arm.toml"
    file.write_text(ARM)
    return file


def like_host(folder, **numbers):
    """The file of a CPU that runs this machine's code but has only these numbers."""
    known = load_device("host").to_json()
    known |= {"name": "made-up-host", "title": "This machine, as if it were another one"}
    known |= {key: numbers.get(key) for key in NUMBERS}
    sources = known.pop("sources")
    sources |= {key: "made up" if key in numbers else "unknown: not made up" for key in NUMBERS}
    file = folder / "made-up-host.toml"
    lines = [f"{key} = {json.dumps(value)}" for key, value in known.items() if value is not None]
    lines += ["[sources]", *(f"{key} = {json.dumps(text)}" for key, text in sources.items())]
    file.write_text("\n".join(lines))
    return file


def network():
    """Every kind of tile: stem, both axes of ParC, depthwise, a product that streams its weights."""
    generator = torch.Generator().manual_seed(7)
    layers = nn.Sequential(
        nn.Conv2d(3, 20, 3, stride=2, padding=1),
        ParC(20, 7, "H"),
        ParC(20, 6, "W"),
        nn.GELU(),
        nn.Conv2d(20, 20, 5, padding=2, groups=20),
        nn.Conv2d(20, 13, 1),
        nn.Flatten(),
        nn.Linear(13 * 42, 301),
        nn.Softmax(-1),
    )
    for tensor in layers.state_dict().values():
        tensor.copy_(0.2 * torch.rand(tensor.shape, generator=generator) - 0.08)
    return layers.eval()


SHAPE = (2, 3, 14, 12)


def check(bundle, model, shape=SHAPE, **options):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    with torch.no_grad():
        expected = model(torch.from_numpy(x)).numpy()
    got = bundle.run(x, **options)
    assert np.abs(got - expected).max() <= TOLERANCE * expected.std()
    return got


def tiles(analysis):
    """(rows, channels) of the register tiles of all kernels that have one."""
    found = [re.search(r"(\d+)x(\d+) tile", row.note) for row in analysis.rows]
    return [(int(m[1]), int(m[2])) for m in found if m]


@pytest.mark.cross("aarch64-linux-gnu")
def test_one_file_and_the_command_line_make_a_verified_bundle(arm, tmp_path, capsys):
    output = tmp_path / "canvas"
    assert main(["-q", "compile", "parc_canvas", "--target", str(arm), "-o", str(output)]) == 0
    bundle = Bundle.open(output)
    assert bundle.manifest["verification"]["passed"]
    assert bundle.device.name == "made-up-arm"
    assert bundle.device.vector_registers == 20
    model, _ = prepare("parc_canvas")
    check(bundle, model, bundle.inputs[0].shape)
    assert "made-up-arm" in capsys.readouterr().out


def test_the_command_line_shows_it_with_its_sources(arm, capsys):
    assert main(["--json", "targets", str(arm)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["l1d_bytes"] == 8192
    assert shown["sources"]["l1d_bytes"] == "made up"
    assert main(["analyze", "parc_canvas", "--target", str(arm)]) == 0
    assert "for made-up-arm" in capsys.readouterr().out


def test_tiles_and_plans_follow_from_its_numbers(arm):
    lanes, registers = 4, 20
    own = analyze(network(), target=arm, input_shape=SHAPE)
    known = analyze(network(), target="cortex-a53", input_shape=SHAPE)
    assert len(tiles(own)) >= 3
    for rows, channels in tiles(own):
        # accumulators, the weights of a step and one input
        assert rows * (channels // lanes) + channels // lanes + 1 <= registers
    assert tiles(own) != tiles(known)
    assert all("for 20 vector registers" in site.note for site in own.parc_sites)


@pytest.mark.cross("aarch64-linux-gnu")
def test_instructions_are_counted_for_it(arm, tmp_path):
    model = nn.Conv2d(3, 8, 1).eval()
    options = {"input_shape": (1, 3, 4, 4), "name": "net", "verify": False}
    bundle = compile(model, target=arm, output=tmp_path / "net", **options)
    profile = count_bundle(bundle, model=model)
    assert profile.target == "made-up-arm"
    assert profile.instructions > profile.macs // 4


@pytest.mark.parametrize(
    "numbers",
    [
        {"vector_bits": 64, "vector_registers": 8},
        {"vector_bits": 128, "vector_registers": 9, "l1d_bytes": 1024, "l2_bytes": 2048},
        {"vector_bits": 128, "vector_registers": 31, "l2_bytes": 1 << 30, "line_bytes": 256},
    ],
    ids=lambda numbers: f"{numbers['vector_registers']} registers",
)
def test_every_number_that_a_file_may_hold_gives_pytorchs_numbers(numbers, tmp_path):
    file = like_host(tmp_path, **numbers)
    model = network()
    bundle = compile(model, target=file, input_shape=SHAPE, output=tmp_path / "net", name="net")
    assert bundle.runs_here
    assert bundle.device.l1d_bytes == numbers.get("l1d_bytes")
    one = check(bundle, model, threads=1)
    assert one.tobytes() == check(bundle, model, threads=3).tobytes()


def test_a_wrong_file_is_refused_with_its_name_before_anything_is_written(arm, tmp_path, capsys):
    arm.write_text(ARM.replace("vector_registers = 20", "vector_registers = 4"))
    options = ["compile", "parc_canvas", "--target", str(arm), "-o", str(tmp_path / "out")]
    assert main(options) == 2
    message = capsys.readouterr().err.replace("\n", " ")
    assert "made-up-arm.toml" in message
    assert "vector_registers is 4; accepted: at least 8" in message
    assert not (tmp_path / "out").exists()
