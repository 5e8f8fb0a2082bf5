"""Does a compiled network compute what PyTorch computes, on every kind of target?"""

import numpy as np
import pytest
import torch

from parc_hw import models
from parc_hw.artifact import TOLERANCE, verify_bundle
from parc_hw.build import compile
from parc_hw.models.canvas_data import canvases

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

NAMES = ("parc_canvas", "conv_canvas", "parc_convnext_xt", "convnext_xt")
CODE_LIMIT_BYTES = 1_500_000  # without weights, per input shape
ARENA_LIMIT = 1.3  # times the largest live set


def check_bundle(name, target, directory):
    """Compile `name`, verify it, print and hold the figures; returns the open bundle."""
    bundle = compile(name, target=target, output=directory / name, verify=False)
    report = verify_bundle(bundle)
    memory = bundle.manifest["memory"]
    print(
        f"\n{name} on {target}: worst error {report.worst:.2g} std (accepted {TOLERANCE:g}), arena "
        f"{memory['arena_bytes']} B of live peak {memory['live_peak_bytes']} B "
        f"({memory['arena_bytes'] / memory['live_peak_bytes']:.3f}, accepted {ARENA_LIMIT}), code "
        f"{memory['code_bytes']} B (accepted {CODE_LIMIT_BYTES})"
    )
    assert report.passed, str(report)
    assert memory["arena_bytes"] <= ARENA_LIMIT * memory["live_peak_bytes"]
    assert memory["code_bytes"] < CODE_LIMIT_BYTES
    return bundle


def check_classes(bundle, name, count, seed):
    """The bundle's classes for `count` test canvases are PyTorch's."""
    images, _ = canvases("test", count, seed)
    model, _ = models.prepare(name)
    with torch.no_grad():
        expected = np.concatenate(
            [model(torch.from_numpy(images[k : k + 100])).numpy() for k in range(0, count, 100)]
        )
    got = np.concatenate([bundle.run(images[k : k + 1]) for k in range(count)])
    same = int((got.argmax(1) == expected.argmax(1)).sum())
    print(f"{name} on {bundle.device.name}: {same} of {count} canvases get PyTorch's class")
    assert same == count
    assert np.abs(got - expected).max() <= TOLERANCE * expected.std()


@pytest.mark.parametrize("name", NAMES)
def test_a_network_on_the_host_is_within_tolerance_of_pytorch(name, tmp_path):
    bundle = check_bundle(name, "host", tmp_path)
    if name.endswith("canvas"):
        check_classes(bundle, name, 1000, seed=1)


@pytest.mark.cross
@pytest.mark.parametrize("target", ["cortex-a53", "rk3288"])
@pytest.mark.parametrize("name", NAMES)
def test_a_network_on_arm_is_within_tolerance_of_pytorch(
    name, target, tmp_path, aarch64_tools, armv7_tools
):
    bundle = check_bundle(name, target, tmp_path)
    if name.endswith("canvas"):
        check_classes(bundle, name, 20, seed=2)
