"""A bundle is written whole or not at all, and twice the same."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_network import TARGETS

from parc_hw.artifact import Bundle, Vectors, check_output, layer_samples, verify_bundle
from parc_hw.errors import (
    BundleError,
    InputError,
    ToolchainError,
    UnsupportedError,
    VerificationError,
)


def files(root: Path) -> dict[str, bytes]:
    """Every file below `root`."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_a_bundle_has_the_files_of_the_contract(built):
    assert set(files(built.bundle.path)) == {
        "manifest.json",
        "include/tiny.h",
        "lib/libtiny.a",
        "lib/libtiny.so",
        "src/tiny_weights.bin",
        "cmake/tinyConfig.cmake",
        "pkgconfig/tiny.pc",
        "example/main.c",
        "example/parallel_pthread.c",
        "test/selftest.c",
        "test/vectors/v0_input0.f32",
        "test/vectors/v0_layers.f32",
        "test/vectors/v0_output0.f32",
        "test/vectors/v0_output1.f32",
        "test/vectors/v1_input0.f32",
        "test/vectors/v1_output0.f32",
        "test/vectors/v1_output1.f32",
        "report/layers.csv",
    }


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_two_builds_are_equal_byte_by_byte(built, tmp_path):
    first = built.write(tmp_path / "one", verify=verify_bundle)
    second = built.write(tmp_path / "deep" / "er" / "two", verify=verify_bundle)
    assert files(first.path) == files(second.path)
    traces = [str(tmp_path), str(Path.cwd()), "/tmp/"]
    for name, data in files(first.path).items():
        assert not any(trace.encode() in data for trace in traces), f"{name} names a directory"


def test_the_manifest_says_what_was_built(built):
    record = json.loads((built.bundle.path / "manifest.json").read_text())
    assert (record["format"], record["schema"], record["name"]) == ("parc_hw bundle", 2, "tiny")
    assert record["source"] == {"model": "tiny", "weights": "by hand"}
    assert record["memory"] == {
        "arena_bytes": 3776,
        "live_peak_bytes": 3712,
        "scratch_bytes": 384,
        "workspace_bytes": 3776 + 384,
        "code_bytes": record["memory"]["code_bytes"],
    }
    assert 1000 < record["memory"]["code_bytes"] < 20000
    (shape,) = record["shapes"]
    assert [layer["rule"] for layer in shape["layers"]] == ["by_hand"] * 5
    assert shape["layers"][1]["order"] == [0, 2, 3, 1]
    assert shape["memory"] == {"arena_bytes": 3776, "live_peak_bytes": 3712}
    assert set(record["tools"]) == {"numpy", "cc"}
    assert shape["inputs"] == [{"name": "image", "shape": [1, 3, 8, 6], "dtype": "float32"}]
    assert record["verification"] is None


def test_verification_is_recorded(built, tmp_path):
    bundle = built.write(tmp_path / "tiny", verify=verify_bundle)
    verification = bundle.manifest["verification"]
    assert verification["passed"] is True
    assert verification["worst"] < 1e-5
    report = json.loads((bundle.path / "report" / "verify.json").read_text())
    assert len(report["rows"]) == 2 * 2


def test_a_bundle_that_computes_something_else_is_not_written(built, tmp_path):
    vectors = built.tiny.vectors()
    wrong = [(classes + 1.0, maps) for classes, maps in vectors.outputs]
    with pytest.raises(VerificationError, match=r"worst error .*Nothing was written"):
        built.write(
            tmp_path / "new" / "tiny",
            vectors=[Vectors(inputs=vectors.inputs, outputs=wrong)],
            verify=verify_bundle,
        )
    assert list(tmp_path.iterdir()) == []


def test_texts_of_the_compilation_are_kept_on_request(built, tmp_path):
    bundle = built.write(tmp_path / "tiny", texts={"tir": "def main(): ...\n", "asm": "ret\n"})
    assert (bundle.path / "dump" / "tir.py").read_text() == "def main(): ...\n"
    assert (bundle.path / "dump" / "kernels.s").read_text() == "ret\n"


def test_progress_names_the_stages_in_order(built, tmp_path):
    seen: list[tuple[str, int, int, str]] = []
    built.write(tmp_path / "tiny", progress=lambda *event: seen.append(event))
    assert [event[:3] for event in seen] == [("bundle", step, 3) for step in range(4)]
    assert "linking the library with" in seen[1][3]


@pytest.mark.parametrize("stage", range(4))
def test_ctrl_c_leaves_nothing_behind(built, tmp_path, stage):
    def interrupt(_stage: str, done: int, _total: int, _message: str) -> None:
        if done == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built.write(tmp_path / "not" / "yet" / "tiny", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_the_old_bundle_as_it_was(built, tmp_path):
    old = files(built.write(tmp_path / "tiny").path)

    def interrupt(_stage: str, done: int, _total: int, _message: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        built.write(tmp_path / "tiny", threads=2, force=True, progress=interrupt)
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]
    assert files(tmp_path / "tiny") == old


_LIMITED = """
import pickle, resource, sys
from parc_hw.artifact import write_bundle
from parc_hw.errors import ParcError
with open(sys.argv[1], "rb") as file:
    arguments = pickle.load(file)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)
try:
    write_bundle(sys.argv[2], **arguments)
except ParcError as error:
    print(error, end="")
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("limit_bytes", [500, 3500, 8000])
def test_no_space_is_said_clearly_and_leaves_nothing(built, tmp_path, limit_bytes):
    # 500: the weights do not fit; 3500: the compiler's output; 8000: the linked library
    arguments = {
        "program": built.program,
        "name": "tiny",
        "device": built.device,
        "vectors": [built.tiny.vectors()],
        "source": {},
        "tool_versions": {},
    }
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    out = tmp_path / "out"
    command = [sys.executable, "-c", _LIMITED, tmp_path / "arguments", out / "a" / "tiny"]
    done = subprocess.run(
        [*command, str(limit_bytes)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2, done.stderr
    assert done.stdout.startswith("no space: ")
    assert done.stdout.endswith("nothing was left behind.")
    assert not out.exists()


@pytest.mark.parametrize(
    "number, message",
    [
        (errno.ENOSPC, "no space"),
        (errno.EDQUOT, "no space"),
        (errno.EFBIG, "no space"),
        (errno.EACCES, "Permission denied.*nothing was left behind"),
        (errno.EROFS, "Read-only file system"),
        (errno.ENAMETOOLONG, "File name too long"),
    ],
)
def test_the_systems_refusal_to_write_is_explained(built, tmp_path, monkeypatch, number, message):
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(BundleError, match=message) as caught:
        built.write(tmp_path / "tiny")
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_an_existing_directory_is_not_overwritten(built, tmp_path):
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "thesis.txt").write_text("years of work")
    with pytest.raises(BundleError, match=r"exists already and is not overwritten.*--force"):
        built.write(tmp_path / "tiny")
    with pytest.raises(BundleError, match="is not a parc_hw bundle, so --force does not"):
        built.write(tmp_path / "tiny", force=True)
    assert files(tmp_path) == {"tiny/thesis.txt": b"years of work"}


def test_force_replaces_a_bundle(built, tmp_path):
    built.write(tmp_path / "tiny")
    (tmp_path / "tiny" / "stale").write_text("from the old one")
    bundle = built.write(tmp_path / "tiny", threads=3, force=True)
    assert bundle.manifest["threads"] == 3
    assert not (tmp_path / "tiny" / "stale").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


def test_a_file_in_the_way_is_not_a_directory(built, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cannot be made: .*file is a file"):
        built.write(tmp_path / "file" / "tiny")


def test_an_unwritable_parent_is_noticed_before_any_work(tmp_path, monkeypatch):
    # root may write everywhere, so the system's answer is replaced
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BundleError, match="is not writable by this user"):
        check_output(tmp_path / "new" / "tiny")


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"name": "my net"}, InputError, "is not a C identifier"),
        ({"threads": 0}, InputError, "threads is 0; accepted are 1 to 64"),
        ({"threads": 65}, InputError, "threads is 65"),
        ({"source": {"when": float("nan")}}, InputError, "not JSON"),
        ({"source": {"shape": np.zeros(3)}}, InputError, "not JSON"),
    ],
)
def test_bad_arguments_are_refused(built, tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        built.write(tmp_path / "tiny", **change)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda i, o: ([], []), "0 input vectors and 0 output vectors"),
        (lambda i, o: (i, o[:1]), "2 input vectors and 1 output vectors"),
        (lambda i, o: ([(i[0][0][0],)] * 2, o), r"inputs are \[\('float32', \(3, 8, 6\)\)\]"),
        (lambda i, o: (i, [(a.astype(float), b) for a, b in o]), "outputs are .*float64"),
        (lambda i, o: (i, [o[0], (o[1][0] * np.nan, o[1][1])]), "vector 1: an output holds NaN"),
    ],
)
def test_vectors_that_do_not_fit_are_refused(built, tmp_path, spoil, message):
    vectors = built.tiny.vectors()
    inputs, outputs = spoil(vectors.inputs, vectors.outputs)

    def write() -> None:
        built.write(tmp_path / "tiny", vectors=[Vectors(inputs=inputs, outputs=outputs)])

    with pytest.raises(InputError, match=message):
        write()


def test_a_tensor_of_five_dimensions_is_refused(built, tmp_path):
    (shape,) = built.program.shapes
    image = dataclasses.replace(shape.inputs[0], shape=(1, 1, 3, 8, 6))
    shape = dataclasses.replace(shape, inputs=(image,))
    program = dataclasses.replace(built.program, shapes=(shape,))
    vectors = built.tiny.vectors()
    inputs = [(x[None],) for (x,) in vectors.inputs]
    with pytest.raises(UnsupportedError, match="at most 4 dimensions"):
        built.write(
            tmp_path / "tiny",
            program=program,
            vectors=[Vectors(inputs=inputs, outputs=vectors.outputs)],
        )


def test_kernels_that_need_a_foreign_function_are_refused(built, tmp_path):
    text = (Path(__file__).parent / "kernels.c").read_text()
    text = text.replace(
        "return expf(-v);", "extern float malloc_free(float); return malloc_free(v);"
    )
    (tmp_path / "work").mkdir()
    program = built.tiny.program(built.device, tmp_path / "work", text=text)
    with pytest.raises(UnsupportedError, match="the kernels need malloc_free"):
        built.write(tmp_path / "out" / "tiny", program=program)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: dataclasses.replace(c[3], operands=c[3].operands[:2]), "2 operands for parc_k3"),
        (lambda c: dataclasses.replace(c[3], operands=c[2].operands[:1] * 3), "writes output 0"),
    ],
)
def test_a_program_that_does_not_fit_itself_is_a_bug(built, tmp_path, change, message):
    (shape,) = built.program.shapes
    calls = list(shape.calls)
    calls[3] = change(calls)
    shape = dataclasses.replace(shape, calls=tuple(calls))
    program = dataclasses.replace(built.program, shapes=(shape,))
    with pytest.raises(ValueError, match=message):
        built.write(tmp_path / "tiny", program=program)


def test_a_missing_compiler_is_said_before_anything_is_written(built, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match="no C compiler"):
        built.write(tmp_path / "tiny")
    assert list(tmp_path.iterdir()) == []


def test_layers_are_sampled_at_even_places_in_memory_order():
    value = np.arange(2 * 3 * 40, dtype=np.float32).reshape(1, 2, 3, 40)
    stored = np.transpose(value, (0, 2, 3, 1)).reshape(-1)
    assert layer_samples(value, (0, 2, 3, 1)).tolist() == stored.tolist()
    long = np.arange(1000, dtype=np.float32)
    expected = [i * 1000 // 256 for i in range(256)]
    assert layer_samples(long, (0,)).tolist() == expected
    with pytest.raises(InputError, match="must name each of its 4 axes once"):
        layer_samples(value, (0, 2, 1))


def test_a_written_bundle_opens(built):
    assert Bundle.open(built.bundle.path).manifest == built.bundle.manifest
