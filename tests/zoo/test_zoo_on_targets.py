"""Does every model of the zoo, compiled for every kind of target, compute what PyTorch computes?

The slow tests write what they find to `benchmarks/results/zoo_targets.json`, from which
`tools/models_table.py` makes the table of docs/models.md.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from parc_hw import build, models
from parc_hw.artifact import TOLERANCE, verify_bundle
from parc_hw.cli.models import times

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results" / "zoo_targets.json"
GNU_TRIPLE = {"cortex-a53": "aarch64-linux-gnu", "rk3288": "arm-linux-gnueabihf"}
TARGETS = ("host", *GNU_TRIPLE)

# Detection and segmentation run on one kind of ARM: their kernels are the classifiers' and take
# the emulator minutes.
NOT_ON_ARMV7 = ("ssdlite_parcnet_s", "deeplabv3_parcnet_s")

# Rectangles and sizes of the papers' downstream tasks, on the host.
LARGER = (
    ("parc_convnext_xt", (1, 3, 800, 1344)),
    ("parc_convnext_xt", (1, 3, 512, 2048)),
    ("parcnet_s", (1, 3, 512, 512)),
)

# One of each kind of network, always: two minutes together, mostly of compiling, which does not
# depend on the input's size. tests/build has ParC-ConvNeXt-XT.
QUICK = ("parcnet_s", "parc_mobilenetv2", "mobilevit_xs")


def case(name, target, shape):
    """A parameter set: needs the target's tools, and reads `parcnet_s-host-1x3x256x256`."""
    marks = [pytest.mark.cross(GNU_TRIPLE[target])] if target in GNU_TRIPLE else []
    return pytest.param(name, target, shape, marks=marks, id=f"{name}-{target}-{times(shape)}")


CASES = [
    *(
        (name, target, models.info(name).input_shape)
        for name in models.names()
        for target in TARGETS
        if not (target == "rk3288" and name in NOT_ON_ARMV7)
    ),
    *((name, "host", shape) for name, shape in LARGER),
]


@pytest.fixture(autouse=True)
def one_vector(monkeypatch):
    """Store and verify one photograph: a second one doubles the emulator's minutes."""
    monkeypatch.setattr(build, "_SAMPLES", 1)


@pytest.fixture
def directory(tmp_path):
    """A place for a bundle, emptied afterwards: those of the zoo take gigabytes together."""
    yield tmp_path / "bundle"
    shutil.rmtree(tmp_path / "bundle", ignore_errors=True)


def verified(name, target, shape, directory):
    """Compile, verify, and give the figures for the table."""
    bundle = build.compile(name, target=target, input_shape=shape, output=directory, verify=False)
    report = verify_bundle(bundle)
    memory, weights = bundle.manifest["memory"], bundle.manifest["weights"]
    figures = {
        "model": name,
        "target": target,
        "shape": times(shape),
        "device": bundle.device.name,
        "worst_error_std": float(f"{report.worst:.2g}"),
        "code_bytes": memory["code_bytes"],
        "weights_bytes": weights["bytes"],
        "arena_bytes": memory["arena_bytes"],
    }
    print(f"\n{figures}")
    assert report.passed, str(report)
    return figures


def record(case, figures):
    """Put a case's figures into the JSON, or take its old ones out when there are none.

    Several workers do so at a time: one after the other, and each replaces the file as a whole.
    """
    RESULTS.parent.mkdir(exist_ok=True)
    folder = os.open(RESULTS.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        known = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else []
        found = {(e["model"], e["target"], e["shape"]): e for e in known}
        found[case[0], case[1], times(case[2])] = figures
        keys = [(name, target, times(shape)) for name, target, shape in CASES]
        document = {
            "generator": "tests/zoo/test_zoo_on_targets.py (make test-all)",
            "accepted_error_std": TOLERANCE,
            "cases": [found[key] for key in keys if found.get(key)],
        }
        new = RESULTS.with_suffix(".new")
        new.write_text(json.dumps(document, indent=1) + "\n")
        new.replace(RESULTS)
    finally:
        os.close(folder)  # and lets the next one in


@pytest.mark.parametrize(
    "name, target, shape",
    [case(name, arm, models.info(name).input_shape) for name in QUICK for arm in GNU_TRIPLE],
)
def test_one_network_of_each_kind_on_arm_is_within_tolerance_of_pytorch(
    name, target, shape, directory
):
    verified(name, target, shape, directory)


@pytest.mark.slow
@pytest.mark.parametrize("name, target, shape", [case(*each) for each in CASES])
def test_every_network_on_every_target_is_within_tolerance_of_pytorch(
    name, target, shape, directory
):
    figures = None
    try:
        figures = verified(name, target, shape, directory)
    finally:
        record((name, target, shape), figures)


def test_a_case_replaces_its_old_figures_and_a_failed_one_takes_them_out(tmp_path, monkeypatch):
    monkeypatch.setattr(f"{__name__}.RESULTS", tmp_path / "results" / "zoo.json")
    name, target, shape = first = CASES[0]
    second = CASES[1]
    entry = {"model": name, "target": target, "shape": times(shape), "code_bytes": 1}
    other = {**entry, "target": second[1], "shape": times(second[2])}

    def cases():
        return json.loads(RESULTS.read_text())["cases"]

    record(second, other)
    record(first, entry)
    assert cases() == [entry, other]  # in the order of CASES
    record(first, {**entry, "code_bytes": 2})
    assert cases() == [{**entry, "code_bytes": 2}, other]
    record(first, None)
    assert cases() == [other]
    assert [path.name for path in RESULTS.parent.iterdir()] == ["zoo.json"]
