"""One library serves several input shapes: it dispatches on dims, shares weights, names what it takes."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny_network import HERE, TARGETS, Built, Tiny

from parc_hw.artifact import Bundle, Vectors, csource, find_toolchain, verify_bundle
from parc_hw.device import load_device
from parc_hw.errors import InputError, UnsupportedError

HEIGHTS = (8, 4, 12)


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Builds the tiny network for three heights for a target, once per target."""
    made: dict[str, Built] = {}

    def of(target: str) -> Built:
        if target not in made:
            directory = tmp_path_factory.mktemp(target)
            device, tiny = load_device(target), Tiny(heights=HEIGHTS)
            program = tiny.program(device, directory)
            built = Built(tiny=tiny, device=device, program=program, bundle=None)  # type: ignore[arg-type]
            built.bundle = built.write(directory / "tiny")
            made[target] = built
        return made[target]

    return of


def all_images(built: Built) -> list[np.ndarray]:
    return [image for height in HEIGHTS for image in built.tiny.images_of[height]]


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_input_decides_which_kernels_run(built):
    for image in (*all_images(built), *reversed(all_images(built))):
        classes, maps = built.bundle.run(image)
        expected = built.tiny.outputs(image)
        # 8 roundings at most on the way to each value; all magnitudes are below 8
        np.testing.assert_allclose(classes, expected[0], rtol=0, atol=8 * 8 * 2**-24)
        np.testing.assert_allclose(maps, expected[1], rtol=0, atol=8 * 8 * 2**-24)


def test_threads_do_not_change_a_bit(built):
    for image in all_images(built):
        one = [a.tobytes() for a in built.bundle.run(image, threads=1)]
        assert [a.tobytes() for a in built.bundle.run(image, threads=3)] == one


def test_a_bound_call_has_the_shape_it_was_bound_with(built):
    four = built.tiny.images_of[4]
    bound = built.bundle.bind(four[0])
    assert bound.inputs[0].shape == (1, 3, 4, 6)
    bound.inputs[0][...] = four[1]
    assert bound() == 0
    assert (bound.outputs[1] == built.bundle.run(four[1])[1]).all()


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_layers_are_those_of_the_inputs_shape(built):
    for shape, height in zip(built.bundle.shapes, HEIGHTS, strict=True):
        image = built.tiny.images_of[height][1]
        expected = built.tiny.layers(image)
        for index, values in built.bundle.run_layers(image):
            layer = shape.layers[index]
            stored = np.transpose(expected[index], layer["order"])
            assert list(stored.shape) == layer["shape"]
            np.testing.assert_allclose(values, stored.reshape(-1), rtol=0, atol=8 * 8 * 2**-24)


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_a_c_program_switches_shapes_with_one_context(built, tmp_path):
    done = built.run_program(built.compile_program(tmp_path / "shapes", HERE / "shapes.c"))
    assert done.stdout.splitlines() == [
        "the dims of an input are not accepted; accepted: 1 x 3 x 8 x 6 or 1 x 3 x 4 x 6 or "
        "1 x 3 x 12 x 6 for input 0",
        "PASS",
    ]


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_self_test_checks_every_shape(built, tmp_path):
    source = built.bundle.path / "test" / "selftest.c"
    done = built.run_program(built.compile_program(tmp_path / "selftest", source))
    lines = done.stdout.splitlines()
    assert (len(lines), lines[-1], done.returncode) == (3 * 2 * 2 + 1, "PASS", 0)
    assert lines[-2].startswith("vector 5, output 1: ")


def test_the_example_runs_the_first_shape(built, tmp_path):
    program = built.compile_program(tmp_path / "main", built.bundle.path / "example" / "main.c")
    logits = built.tiny.outputs(built.tiny.images_of[8][0])[0]
    assert built.run_program(program).stdout.startswith(f"class {logits.argmax()}, logit ")
    done = built.run_program(program, "src/tiny_weights.bin", "test/vectors/v2_input0.f32")
    assert "v2_input0.f32: not a readable file of 576 bytes" in done.stderr


def test_the_librarys_source_compiles_without_a_warning(built, tmp_path):
    sources = csource.Sources(
        built.program,
        name="tiny",
        device=built.device,
        weights_bytes=704,
        build=bytes(32),
        weights_c=False,
        tolerances=[[[1.0, 1.0]]] * 3,
    )
    find_toolchain(built.device).compile_object(
        sources.text("library.c.j2"),
        tmp_path / "x.o",
        include=[built.bundle.path / "include"],
        flags=["-Wall", "-Wextra", "-Werror", "-pedantic"],
    )


def test_an_unknown_shape_is_refused_with_the_accepted_ones(built):
    image = built.tiny.images[0]
    message = (
        r"'image' has shape \(1, 3, 7, 6\); accepted is \(1, 3, 8, 6\) or \(1, 3, 4, 6\) or "
        r"\(1, 3, 12, 6\)\. Compile"
    )
    for call in (built.bundle.run, built.bundle.bind):
        with pytest.raises(InputError, match=message):
            call(image[:, :, :7])
    with pytest.raises(
        InputError, match=r"takes 1 \(image: float32 1x3x8x6; or image: float32 1x3x4x6; or"
    ):
        built.bundle.run()
    with pytest.raises(InputError, match="holds 1 values that are NaN"):
        built.bundle.run(np.where(image == image.max(), np.nan, image).astype("f4")[:, :, :8])


def test_the_workspace_is_that_of_the_largest_shape_and_weights_are_stored_once(built, tmp_path):
    alone = {}
    for height in HEIGHTS:
        tiny = Tiny(heights=(height,))
        single = Built(
            tiny=tiny,
            device=built.device,
            program=tiny.program(built.device, tmp_path),
            bundle=built.bundle,
        )
        alone[height] = single.write(tmp_path / f"h{height}").manifest
    memory = built.bundle.manifest["memory"]
    for key in ("arena_bytes", "live_peak_bytes", "scratch_bytes", "workspace_bytes"):
        assert memory[key] == max(record["memory"][key] for record in alone.values())
    weights = {record["weights"]["bytes"] for record in alone.values()}
    assert weights == {built.bundle.manifest["weights"]["bytes"]}
    for entry, height in zip(built.bundle.manifest["shapes"], HEIGHTS, strict=True):
        assert entry["memory"] == alone[height]["shapes"][0]["memory"]


def test_the_manifest_and_the_table_of_layers_have_every_shape(built):
    record = built.bundle.manifest
    assert [entry["inputs"][0]["shape"][2] for entry in record["shapes"]] == list(HEIGHTS)
    assert [entry["vectors"] for entry in record["shapes"]] == [2, 2, 2]
    kernels = [[layer["kernel"] for layer in entry["layers"]] for entry in record["shapes"]]
    assert {names[3] for names in kernels} == {"parc_k3"}
    assert len({names[1] for names in kernels}) == 3
    calls = {kernel["symbol"]: kernel["calls"] for kernel in record["kernels"]}
    assert calls["parc_k3"] == 3
    with (built.bundle.path / "report" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["input"], row["layer"]) for row in rows] == [
        (f"1x3x{height}x6", str(layer)) for height in HEIGHTS for layer in range(5)
    ]


def test_verification_checks_every_vector_of_every_shape(built):
    report = verify_bundle(built.bundle)
    assert report.passed
    assert [(row.vector, row.input, row.output) for row in report.rows] == [
        (2 * k + v, f"1x3x{height}x6", output)
        for k, height in enumerate(HEIGHTS)
        for v in range(2)
        for output in ("classes", "map")
    ]
    assert "over 6 vectors" in str(report)


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_verification_names_the_layer_and_the_shape_that_differ(built, tmp_path):
    text = (Path(__file__).parent / "kernels.c").read_text()
    text = text.replace("1.0f / (1.0f", "(HEIGHT == 4 ? 1.01f : 1.0f) / (1.0f")
    program = built.tiny.program(built.device, tmp_path, text=text)
    report = verify_bundle(built.write(tmp_path / "tiny", program=program))
    assert {row.input for row in report.rows if row.ratio > report.tolerance} == {"1x3x4x6"}
    assert report.first_diverging == (
        "stage.1 (layer 1, matmul.sigmoid, rule by_hand, input 1x3x4x6)"
    )


def test_two_builds_are_equal_byte_by_byte(built, tmp_path):
    roots = [built.write(tmp_path / k, verify=verify_bundle).path for k in ("one", "two")]
    one, two = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in roots
    )
    assert one == two


def test_a_reopened_bundle_has_all_vectors(built):
    for vectors, height in zip(Bundle.open(built.bundle.path).vectors(), HEIGHTS, strict=True):
        expected = built.tiny.vectors(height)
        for (got,), (image,) in zip(vectors.inputs, expected.inputs, strict=True):
            assert (got == image).all()
        for got, outputs in zip(vectors.outputs, expected.outputs, strict=True):
            assert all((a == b).all() for a, b in zip(got, outputs, strict=True))
        assert vectors.layers.keys() == expected.layers.keys()
        assert all((vectors.layers[k] == expected.layers[k]).all() for k in vectors.layers)


def test_a_shape_given_twice_is_refused(built, tmp_path):
    shapes = (*built.program.shapes, built.program.shapes[1])
    program = dataclasses.replace(built.program, shapes=shapes)
    vectors = [built.tiny.vectors(height) for height in (*HEIGHTS, 4)]
    with pytest.raises(InputError, match=r"1x3x4x6 and 1x3x4x6 have the same dims.*only once"):
        built.write(tmp_path / "tiny", program=program, vectors=vectors)


def test_shapes_with_other_outputs_are_refused(built, tmp_path):
    first, second, _ = built.program.shapes
    fewer = dataclasses.replace(
        second, outputs=second.outputs[:1], calls=second.calls[:4], layers=second.layers[:4]
    )
    program = dataclasses.replace(built.program, shapes=(first, fewer))
    vectors = [
        built.tiny.vectors(8),
        Vectors(
            inputs=built.tiny.vectors(4).inputs,
            outputs=[outputs[:1] for outputs in built.tiny.vectors(4).outputs],
        ),
    ]
    with pytest.raises(UnsupportedError, match=r"1 outputs for 1x3x4x6 and 2 for 1x3x8x6"):
        built.write(tmp_path / "tiny", program=program, vectors=vectors)
