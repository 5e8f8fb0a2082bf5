"""The commands one after the other on a real compilation, and what is left when one is stopped."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

SOURCE = """
import torch
from parc_hw.nn import ParC


def make():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 2, stride=2),
        ParC(16, 8, axis="H"),
        torch.nn.GELU(),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 64, 10),
    ).eval()


def any_size():
    torch.manual_seed(3)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 2, stride=2),
        ParC(16, 8, axis="H", resize="bilinear"),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(16, 10),
    ).eval()
"""
SHAPE = (1, 3, 16, 16)


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
    """A directory with a module `tiny_nets` whose `make` returns a small ParC network."""
    directory = tmp_path_factory.mktemp("nets")
    (directory / "tiny_nets.py").write_text(SOURCE)
    return directory


def command(repository, nets, *arguments, **options):
    return [
        [sys.executable, "-m", "parc_hw", *map(str, arguments)],
        {
            "cwd": nets,
            "env": {**os.environ, "PYTHONPATH": str(repository), "NO_COLOR": "1"},
            "text": True,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **options,
        },
    ]


COMPILE = ("compile", "tiny_nets:make", "--input-shape", "1x3x16x16")


@pytest.fixture(scope="module")
def bundle(repository, nets):
    """The network compiled for this machine, by the program as a user types it."""
    arguments, options = command(repository, nets, *COMPILE, "-o", "host", "--json")
    done = subprocess.run(arguments, **options, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{")
    return nets / "host"


@pytest.fixture
def reference(nets, monkeypatch):
    """An input, and what PyTorch makes of it."""
    import torch

    monkeypatch.syspath_prepend(nets)
    import tiny_nets

    x = np.random.default_rng(5).standard_normal(SHAPE).astype(np.float32)
    with torch.inference_mode():
        return x, tiny_nets.make()(torch.from_numpy(x)).numpy()


def test_run_computes_what_pytorch_computes(cli, bundle, reference, tmp_path):
    x, expected = reference
    np.save(tmp_path / "x.npy", x)
    outcome = cli("run", bundle, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy", "--json")
    assert outcome.code == 0, outcome.err
    y = np.load(tmp_path / "y.npy")
    assert np.abs(y - expected).max() <= 1e-3 * expected.std()
    assert outcome.json["outputs"][0]["argmax"] == [int(expected.argmax())]


def test_threads_do_not_change_a_bit(cli, bundle, reference, tmp_path):
    np.save(tmp_path / "x.npy", reference[0])
    results = []
    for threads in (1, 2, 3):
        y = tmp_path / f"y{threads}.npy"
        outcome = cli("run", bundle, "-i", tmp_path / "x.npy", "-o", y, "--threads", threads)
        assert outcome.code == 0, outcome.err
        results.append(y.read_bytes())
    assert results[0] == results[1] == results[2]


def test_verify_passes_and_then_notices_a_changed_byte(cli, bundle, tmp_path):
    import shutil

    assert cli("verify", bundle, "--json").json["passed"] is True
    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    weights = next((copy / "src").glob("*_weights.bin"))
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    outcome = cli("verify", copy)
    assert outcome.code == 2
    assert "is corrupt" in outcome.err
    assert weights.name in outcome.err


def test_bench_measures_it_alone_when_no_peer_knows_it(cli, bundle):
    outcome = cli("bench", bundle, "--seconds", "0.2", "--threads", 1, "--threads", 2, "--json")
    assert outcome.code == 0, outcome.err
    assert "measured without peers" in outcome.err
    rows = outcome.json["series"]
    assert [(row["runtime"], row["threads"]) for row in rows] == [("parc_hw", 1), ("parc_hw", 2)]
    assert rows[1]["max_difference_std"] == 0.0


def test_profile_shows_every_layer_and_its_share(cli, bundle):
    outcome = cli("profile", bundle, "--seconds", "0.1", "--json")
    assert outcome.code == 0, outcome.err
    layers = outcome.json["layers"]
    assert [layer["rule"] for layer in layers][:2] == ["conv", "parc"]
    assert all(layer["time_s"] > 0 for layer in layers)
    assert outcome.json["macs"] == sum(layer["macs"] for layer in layers)
    assert outcome.json["peak_flops"] > 0
    shown = cli("profile", bundle, "--seconds", "0.1", "--by-share")
    assert "GFLOP/s" in shown.out
    assert "of the" in shown.out


def test_profile_refuses_what_does_not_fit_together(cli, bundle, nets, monkeypatch):
    monkeypatch.chdir(nets)
    outcome = cli("profile", bundle, "--model", "tiny_nets:make")
    assert outcome.code == 2
    assert "--model is for counting" in outcome.err
    outcome = cli("profile", bundle, "--instructions", "--threads", "2")
    assert outcome.code == 2
    assert "one thread, not 2" in outcome.err
    outcome = cli("profile", bundle, "--instructions", "--model", "tiny_nets:any_size")
    assert outcome.code == 2
    assert "compile the bundle again" in outcome.err


def test_an_existing_bundle_is_kept_unless_forced(cli, bundle, nets, monkeypatch):
    monkeypatch.chdir(nets)
    before = (bundle / "manifest.json").read_bytes()
    outcome = cli(*COMPILE, "-o", bundle)
    assert outcome.code == 2
    assert "--force" in outcome.err
    assert (bundle / "manifest.json").read_bytes() == before


def test_a_place_that_cannot_be_written_is_named_before_any_work(cli, nets, tmp_path, monkeypatch):
    monkeypatch.chdir(nets)
    file = tmp_path / "file"
    file.write_text("")
    outcome = cli(*COMPILE, "-o", file / "bundle")
    assert outcome.code == 2
    assert str(file) in outcome.err
    assert "kernels" not in outcome.err


def test_a_missing_cross_compiler_is_5_with_the_line_that_installs_it(
    cli, nets, tmp_path, monkeypatch
):
    import importlib.util

    find_spec = importlib.util.find_spec
    monkeypatch.chdir(nets)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name)
    )
    outcome = cli(*COMPILE, "--target", "rk3288", "-o", tmp_path / "b")
    assert outcome.code == 5
    assert "sudo apt-get install -y gcc-arm-linux-gnueabihf" in outcome.err
    assert not (tmp_path / "b").exists()


def test_a_missing_emulator_is_5_with_the_line_that_installs_it(cli, nets, tmp_path, monkeypatch):
    monkeypatch.chdir(nets)
    monkeypatch.setenv("PATH", str(tmp_path))  # zig still compiles
    outcome = cli(*COMPILE, "--target", "cortex-a53", "-o", tmp_path / "b")
    assert outcome.code == 5
    assert "sudo apt-get install -y qemu-user-static" in outcome.err
    assert not (tmp_path / "b").exists()


@pytest.mark.cross("arm-linux-gnueabihf")
def test_the_same_network_runs_for_armv7_under_qemu(cli, nets, reference, tmp_path, monkeypatch):
    monkeypatch.chdir(nets)
    x, expected = reference
    np.save(tmp_path / "x.npy", x)
    outcome = cli(*COMPILE, "--target", "rk3288", "-o", tmp_path / "arm")
    assert outcome.code == 0, outcome.err
    assert "verified on" in outcome.out
    outcome = cli("run", tmp_path / "arm", "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert outcome.code == 0, outcome.err
    assert np.abs(np.load(tmp_path / "y.npy") - expected).max() <= 1e-3 * expected.std()
    assert cli("bench", tmp_path / "arm").code == 3
    profile = cli("profile", tmp_path / "arm", "--model", "tiny_nets:make", "--json")
    assert profile.code == 0, profile.err
    again = cli("profile", tmp_path / "arm", "--model", "tiny_nets:make", "--json")
    assert again.json == profile.json  # counts are exact
    layers = profile.json["layers"]
    assert [layer["rule"] for layer in layers][:2] == ["conv", "parc"]
    # Four lanes: every kernel executes at least a quarter of its multiply-adds.
    assert all(layer["instructions"] >= layer["macs"] / 4 for layer in layers)
    assert profile.json["instructions"] == sum(layer["instructions"] for layer in layers)


def test_one_bundle_for_two_shapes_runs_verifies_and_is_measured(cli, nets, tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(nets)
    monkeypatch.syspath_prepend(nets)
    import tiny_nets

    shapes = ("--input-shape", "1x3x16x16", "--input-shape", "1x3x24x12")
    bundle = tmp_path / "two"
    outcome = cli("compile", "tiny_nets:any_size", *shapes, "-o", bundle, "--json")
    assert outcome.code == 0, outcome.err
    for shape in ((1, 3, 24, 12), (1, 3, 16, 16)):
        x = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
        np.save(tmp_path / "x.npy", x)
        outcome = cli("run", bundle, "-i", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
        assert outcome.code == 0, outcome.err
        with torch.inference_mode():
            expected = tiny_nets.any_size()(torch.from_numpy(x)).numpy()
        assert np.abs(np.load(tmp_path / "y.npy") - expected).max() <= 1e-3 * expected.std()
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 12, 24), np.float32))
    refused = cli("run", bundle, "-i", tmp_path / "x.npy")
    assert (refused.code, "takes 1x3x16x16 or 1x3x24x12" in refused.err) == (2, True)
    rows = cli("verify", bundle, "--json").json["rows"]
    assert [row["input"] for row in rows] == ["1x3x16x16"] * 2 + ["1x3x24x12"] * 2
    measure = ("bench", bundle, "--seconds", "0.1", "--no-peers", "--json")
    assert cli(*measure).json["input"] == "1x3x16x16"
    assert cli(*measure, "--input-shape", "1x3x24x12").json["input"] == "1x3x24x12"
    refused = cli(*measure, "--input-shape", "1x3x24x24")
    assert (refused.code, "takes 1x3x16x16; or 1x3x24x12" in refused.err) == (2, True)


def test_ctrl_c_ends_with_130_and_leaves_nothing(repository, nets, tmp_path):
    where = tmp_path / "out"
    where.mkdir()

    def interruptible() -> None:
        # A shell starts what it puts into the background with SIGINT ignored.
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    arguments, options = command(
        repository, nets, *COMPILE, "-o", where / "bundle", preexec_fn=interruptible
    )
    process = subprocess.Popen(arguments, **options)
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("import"):  # in the middle: PyTorch and TVM are at work
            process.send_signal(signal.SIGINT)
            break
    _, words = process.communicate(timeout=120)
    assert process.returncode == 130
    assert words.splitlines()[-1] == "error: interrupted."
    assert list(where.iterdir()) == []


def test_no_space_is_named_and_leaves_nothing(repository, nets, tmp_path):
    where = tmp_path / "out"
    where.mkdir()

    def limit() -> None:
        # The weights alone are 40 kB. Python ignores SIGXFSZ: a write fails with EFBIG.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    arguments, options = command(
        repository, nets, *COMPILE, "-o", where / "bundle", preexec_fn=limit
    )
    done = subprocess.run(arguments, **options, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "space" in done.stderr
    assert "this is a bug" not in done.stderr
    assert list(where.iterdir()) == []
