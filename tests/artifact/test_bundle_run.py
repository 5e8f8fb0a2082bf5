"""A bundle runs from Python, here or emulated, and says what it does not accept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_network import TARGETS, Built

from parc_hw.artifact import Bundle, Vectors, verify_bundle
from parc_hw.errors import BundleError, InputError, MeasurementError, ToolchainError


@pytest.fixture
def copy(built: Built, tmp_path: Path) -> Path:
    """A copy of the host's bundle that a test may spoil."""
    return Path(shutil.copytree(built.bundle.path, tmp_path / "tiny"))


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_values_are_the_references(built):
    for image in built.tiny.images:
        classes, maps = built.bundle.run(image)
        expected = built.tiny.outputs(image)
        # 8 roundings at most on the way to each value; all magnitudes are below 8
        np.testing.assert_allclose(classes, expected[0], rtol=0, atol=8 * 8 * 2**-24)
        np.testing.assert_allclose(maps, expected[1], rtol=0, atol=8 * 8 * 2**-24)


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_threads_do_not_change_a_bit(built):
    image = built.tiny.images[0]
    one = built.bundle.run(image, threads=1)
    for threads in (2, 4):
        for _ in range(3):
            many = built.bundle.run(image, threads=threads)
            assert [a.tobytes() for a in many] == [a.tobytes() for a in one]


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_layers_come_in_order_and_in_memory_order(built):
    image = built.tiny.images[0]
    expected = built.tiny.layers(image)
    seen = list(built.bundle.run_layers(image))
    assert [index for index, _ in seen] == [0, 1, 2, 3, 4]
    for index, values in seen:
        order = built.bundle.layers[index]["order"]
        np.testing.assert_allclose(
            values, np.transpose(expected[index], order).reshape(-1), rtol=0, atol=8 * 8 * 2**-24
        )


def test_threads_and_layers_go_together(built):
    image = built.tiny.images[0]
    one = [values.tobytes() for _, values in built.bundle.run_layers(image, threads=1)]
    assert [v.tobytes() for _, v in built.bundle.run_layers(image, threads=3)] == one


def test_results_are_the_callers_own(built):
    first, _ = built.bundle.run(built.tiny.images[0])
    before = first.copy()
    built.bundle.run(built.tiny.images[1])
    assert (first == before).all()


def test_an_input_need_not_be_contiguous_or_aligned(built):
    image = built.tiny.images[0]
    expected = built.bundle.run(image)
    strided = np.empty((1, 8, 6, 3), np.float32).transpose(0, 3, 1, 2)
    strided[...] = image
    odd = np.empty(image.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(image.shape)
    odd[...] = image
    for other in (strided, odd):
        assert (built.bundle.run(other)[0] == expected[0]).all()


def test_a_bound_call_reads_and_writes_its_own_buffers(built):
    bound = built.bundle.bind(built.tiny.images[0], threads=2)
    assert bound() == 0
    assert (bound.outputs[0] == built.bundle.run(built.tiny.images[0])[0]).all()
    bound.inputs[0][...] = built.tiny.images[1]
    bound()
    assert (bound.outputs[0] == built.bundle.run(built.tiny.images[1])[0]).all()
    assert all(a.ctypes.data % 64 == 0 for a in (*bound.inputs, *bound.outputs))


@pytest.mark.parametrize("built", TARGETS[1:], indirect=True)
def test_an_emulated_bundle_is_not_timed(built):
    with pytest.raises(MeasurementError, match="does not run on this machine"):
        built.bundle.bind(built.tiny.images[0])


@pytest.mark.parametrize("built", TARGETS[1:2], indirect=True)
def test_a_missing_emulator_is_said(built, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match="qemu-user-static"):
        Bundle.open(built.bundle.path).run(built.tiny.images[0])


def test_a_second_thread_needs_the_compiler_once(built, monkeypatch, tmp_path):
    from parc_hw.artifact import host

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    host._pool_library.cache_clear()
    bundle = Bundle.open(built.bundle.path)
    bundle.run(built.tiny.images[0])
    with pytest.raises(ToolchainError, match="no C compiler"):
        bundle.run(built.tiny.images[0], threads=2)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda x: (), r"0 inputs were given; tiny takes 1 \(image: float32 1x3x8x6\)"),
        (lambda x: (x, x), "2 inputs were given"),
        (lambda x: (x.tolist(),), "is a list; accepted is a numpy array"),
        (lambda x: (x.astype(np.float64),), "has dtype float64; accepted is float32.*astype"),
        (lambda x: (x[0],), r"has shape \(3, 8, 6\); accepted is \(1, 3, 8, 6\)"),
        (lambda x: (np.where(x > 1, np.nan, x).astype("f4"),), "values that are NaN or infinite"),
        (lambda x: (x / np.float32(0.0),), "holds 144 values that are NaN or infinite"),
    ],
)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_input_that_does_not_fit_is_refused(built, spoil, message):
    for call in (built.bundle.run, built.bundle.bind):
        with pytest.raises(InputError, match=message):
            call(*spoil(built.tiny.images[0]))


@pytest.mark.parametrize("threads", [0, -1, 65])
def test_a_number_of_threads_out_of_range_is_refused(built, threads):
    with pytest.raises(InputError, match="accepted are 1 to 64"):
        built.bundle.run(built.tiny.images[0], threads=threads)


def test_what_is_not_a_bundle_is_refused(tmp_path):
    with pytest.raises(BundleError, match="does not exist; a bundle is a directory"):
        Bundle.open(tmp_path / "nothing")
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        Bundle.open(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="not the manifest of a parc_hw bundle"):
        Bundle.open(tmp_path)
    with pytest.raises(BundleError, match="is not a directory"):
        Bundle.open(tmp_path / "manifest.json")


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda m: m.update(schema=99), "schema 99; this version reads schema 2"),
        (lambda m: m.pop("shapes"), "key 'shapes' is missing"),
        (lambda m: m.update(threads="2"), "'threads' is str"),
        (lambda m: m.update(shapes={}), "'shapes' is dict, not a list"),
        (lambda m: m.update(shapes=[]), "'shapes' is empty"),
        (lambda m: m.update(shapes=[3]), "entry 0 of 'shapes' is int"),
        (
            lambda m: m["shapes"][0]["layers"][2].pop("order"),
            "entry 0 of 'shapes': entry 2 of 'layers': key 'order' is missing",
        ),
        (lambda m: m["shapes"][0]["outputs"][1].update(shape="5"), "'shape' is str"),
        (lambda m: m["device"].update(isa="z80"), "describes a device"),
        (lambda m: m["device"].pop("triple"), "describes a device"),
    ],
)
def test_a_broken_manifest_is_refused(copy, spoil, message):
    record = json.loads((copy / "manifest.json").read_text())
    spoil(record)
    (copy / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(BundleError, match=message):
        Bundle.open(copy)


@pytest.mark.parametrize(
    "name",
    ["src/tiny_weights.bin", "lib/libtiny.so", "include/tiny.h", "test/vectors/v0_input0.f32"],
)
def test_a_missing_or_changed_file_is_named(copy, name):
    data = (copy / name).read_bytes()
    (copy / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=f"is corrupt: {name}"):
        Bundle.open(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"is incomplete: {name} is missing"):
        Bundle.open(copy)


def test_the_example_may_be_edited(copy):
    (copy / "example" / "main.c").write_text("int main(void) { return 0; }\n")
    Bundle.open(copy)


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_verification_compares_every_output_of_every_vector(built):
    report = verify_bundle(built.bundle)
    assert report.passed
    assert report.first_diverging is None
    assert [(row.vector, row.output) for row in report.rows] == [
        (0, "classes"),
        (0, "map"),
        (1, "classes"),
        (1, "map"),
    ]
    assert report.worst < 1e-5
    assert "accepted 0.001" in report.summary


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_verification_names_the_first_layer_that_differs(built, tmp_path):
    text = (Path(__file__).parent / "kernels.c").read_text()
    text = text.replace("1.0f / (1.0f", "1.01f / (1.0f")
    program = built.tiny.program(built.device, tmp_path, text=text)
    report = verify_bundle(built.write(tmp_path / "tiny", program=program))
    assert not report.passed
    assert report.first_diverging == "stage.1 (layer 1, matmul.sigmoid, rule by_hand)"
    assert "the first layer that differs is stage.1" in str(report)
    assert json.dumps(report.to_json(), allow_nan=False)


def test_verification_fails_on_values_that_are_not_finite(built, tmp_path):
    text = (Path(__file__).parent / "kernels.c").read_text()
    text = text.replace("y[o] = sum / (float)PIXELS", "y[o] = (sum - sum) / (sum - sum)")
    program = built.tiny.program(built.device, tmp_path, text=text)
    report = verify_bundle(built.write(tmp_path / "tiny", program=program))
    assert not report.passed
    assert report.first_diverging is not None
    assert report.first_diverging.startswith("stage.2")
    assert report.to_json()["worst"] is None


def test_verification_without_stored_layers_names_none(built, tmp_path):
    vectors = built.tiny.vectors()
    wrong = Vectors(
        inputs=vectors.inputs, outputs=[(classes + 1, maps) for classes, maps in vectors.outputs]
    )
    report = verify_bundle(built.write(tmp_path / "tiny", vectors=[wrong]))
    assert not report.passed
    assert report.first_diverging is None
