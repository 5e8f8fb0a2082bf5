"""Does a wrong request fail early, clearly, and without leaving anything behind?"""

import numpy as np
import pytest
import torch
from torch import nn

from parc_hw.build import analyze, compile, default_name
from parc_hw.errors import InputError, ToolchainError, UnsupportedError, VerificationError

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


def build(tmp_path, model=None, **options):
    options = {"input_shape": (1, 3, 8, 8), "name": "net", **options}
    return compile(model or network(), output=tmp_path / "out", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "cortex-a35"}, r"no target is called 'cortex-a35'\. Did you mean cortex-a"),
        ({"plan": "11x"}, "plan '11x' is not understood"),
        ({"plan": "33x1"}, "n1 = 33 is longer than the longest codelet, 32"),
        ({"threads": 0}, "threads is 0; accepted: 1 to 64"),
        ({"threads": 65}, "threads is 65"),
        ({"dump": ["asmm"]}, "cannot dump 'asmm'; accepted: relax, tir, ll, asm"),
        ({"name": "2net"}, "2net"),
        ({"input_shape": (1, 3, 0, 8)}, "every extent must be at least 1"),
        ({"input_shape": None}, "input shape is not known"),
    ],
)
def test_a_bad_option_is_refused_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        build(tmp_path, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_model_gets_the_nearest_names(tmp_path):
    with pytest.raises(InputError, match="parc_canvas"):
        build(tmp_path, "parc_canvs")


def test_a_shape_the_model_cannot_take_says_so(tmp_path):
    with pytest.raises(InputError, match="2"):
        build(tmp_path, input_shape=(1, 3, 2, 2))
    assert list(tmp_path.iterdir()) == []


def test_nan_in_the_weights_is_refused_with_the_keys(tmp_path):
    model = network()
    with torch.no_grad():
        model[0].weight[1, 2] = float("nan")
    with pytest.raises(InputError, match=r"0\.weight"):
        build(tmp_path, model)
    assert list(tmp_path.iterdir()) == []


def test_unsupported_operators_are_all_listed(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.fft.rfft(x).abs() + torch.linalg.svdvals(x).sum()

    with pytest.raises(UnsupportedError) as caught:
        build(tmp_path, Odd())
    assert "fft" in str(caught.value)
    assert "svd" in str(caught.value)


def test_an_existing_directory_is_not_touched(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="exists"):
        build(tmp_path)
    with pytest.raises(InputError, match="not a parc_hw bundle"):
        build(tmp_path, force=True)
    assert (tmp_path / "out" / "mine.txt").read_text() == "precious"


def test_force_replaces_a_bundle(tmp_path):
    build(tmp_path, name="first")
    with pytest.raises(InputError, match="exists"):
        build(tmp_path, name="second")
    assert build(tmp_path, name="second", force=True).manifest["name"] == "second"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("stage", ["import", "kernels", "bundle", "verify"])
def test_ctrl_c_leaves_nothing(stage, tmp_path):
    def interrupt(at, done, total, message):
        if at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_cross_compiler_names_the_line_that_installs_it(tmp_path, monkeypatch):
    from parc_hw.artifact import toolchain

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(toolchain, "_zig", lambda *args, **kwargs: None)
    with pytest.raises(ToolchainError, match=r"apt-get install .*gcc-aarch64-linux-gnu"):
        build(tmp_path, target="cortex-a53")


def test_a_missing_emulator_names_the_line_that_installs_it(tmp_path, monkeypatch):
    import shutil

    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda p, *a, **k: None if "qemu" in p else which(p))
    with pytest.raises(ToolchainError, match=r"apt-get install .*qemu-user"):
        build(tmp_path, target="cortex-a53")


def test_a_wrong_kernel_is_found_and_the_first_layer_that_diverges_is_named(tmp_path, monkeypatch):
    import schedules.cpu
    from schedules.cpu.matmul import matmul
    from schedules.rule import Scheduled

    def wrong(composite, context):
        answer = matmul(composite, context)
        if isinstance(answer, Scheduled):
            constants = tuple(np.zeros_like(c) for c in answer.constants)
            return Scheduled(
                func=answer.func,
                inputs=answer.inputs,
                constants=constants,
                rule="wrong",
                macs=answer.macs,
            )
        return answer

    monkeypatch.setattr(schedules.cpu, "RULES", (wrong, *schedules.cpu.RULES))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 9)).eval()
    with pytest.raises(VerificationError, match=r"first layer that differs is 2 .*rule wrong"):
        build(tmp_path, model)
    assert list(tmp_path.iterdir()) == []


def with_memory(monkeypatch, size_bytes):
    from parc_hw.artifact import memory

    monkeypatch.setattr(memory, "machine_bytes", lambda: size_bytes)


def test_a_model_that_needs_more_memory_than_there_is_says_how_much(tmp_path, monkeypatch):
    stages = []

    def progress(stage, *_):
        stages.append(stage)

    # In 3x256x256 floats, out 4x254x254, and the same in NHWC between.
    with_memory(monkeypatch, 1 << 20)
    with pytest.raises(
        UnsupportedError,
        match=r"Sequential at 1x3x256x256 needs 2\.72 MiB of memory \(weights: 0\.00 MiB, "
        r"intermediate values: 0\.98 MiB, inputs and outputs: 1\.73 MiB\); this machine has "
        r"1\.00 MiB\. Take a smaller input, or compile with --no-verify",
    ):
        build(tmp_path, input_shape=(1, 3, 256, 256), progress=progress)
    assert "kernels" not in stages
    assert list(tmp_path.iterdir()) == []


def test_memory_counts_what_is_live_together(tmp_path, monkeypatch):
    """Two values of 1 MiB each are live at a time, besides input and output of 32 KiB."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 1), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 1, 1)
    ).eval()
    options = {"model": model, "input_shape": (1, 1, 128, 64)}
    with_memory(monkeypatch, 2 << 20)
    with pytest.raises(UnsupportedError, match=r"intermediate values: 2\.00 MiB"):
        build(tmp_path, **options)
    with_memory(monkeypatch, 4 << 20)
    build(tmp_path, **options)


def test_a_bundle_that_needs_more_memory_than_there_is_is_compiled_but_does_not_run(
    tmp_path, monkeypatch
):
    with_memory(monkeypatch, 1 << 20)
    # Alone the input fits.
    bundle = build(tmp_path, input_shape=(1, 3, 256, 256), verify=False)
    x = np.zeros((1, 3, 256, 256), np.float32)
    for run in (bundle.run, bundle.bind, lambda x, **o: list(bundle.run_layers(x, **o))):
        with pytest.raises(
            UnsupportedError,
            match=r"at 1x3x256x256 with 2 threads needs .* \(weights: .*workspace: ",
        ):
            run(x, threads=2)
    with_memory(monkeypatch, 1 << 30)
    assert bundle.run(x).shape == (1, 4, 254, 254)


def test_an_input_larger_than_the_memory_is_refused_before_it_is_made():
    with pytest.raises(
        UnsupportedError, match=r"Sequential at 1x3x1000000x1000000 needs 11175\.\d+"
    ):
        analyze(network(), input_shape=(1, 3, 1_000_000, 1_000_000))


def test_values_beyond_32_bit_indices_are_all_named():
    model = nn.Sequential(nn.Upsample(size=(50_000, 50_000)), nn.MaxPool2d(2), nn.Conv2d(3, 4, 1))
    with pytest.raises(InputError, match=r"5 value\(s\) have 2\*\*31 elements or more") as caught:
        analyze(model.eval(), input_shape=(1, 3, 2, 2))
    assert "relax.image.resize2d at 0: 1x3x50000x50000" in str(caught.value)
    assert "relax.nn.conv2d at 2: 1x25000x25000x4" in str(caught.value)


def test_analyze_refuses_what_compile_refuses():
    with pytest.raises(InputError, match="no target"):
        analyze(network(), target="nope", input_shape=(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("model", "name"),
    [("parc_canvas", "parc_canvas"), ("my.pack-age:Net", "net"), (nn.ReLU(), "relu")],
)
def test_default_names_are_c_identifiers(model, name):
    assert default_name(model) == name
