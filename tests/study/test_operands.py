"""What a study of ParC takes: every plan, position embedding, bias, dense kernels, files."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.study.lines import kernels, spectra
from parc_hw.study.spec import LineData, StudySpec, load_spec, parse_spec
from parc_hw.study.subjects import compute, subject_of

PLANS = ("direct", "fft", "8x7", "14x4")
TEXT = """schema = 1
name = "s"
subject = "parc"
[data]
{data}
[grid]
length = {length}
plan = {plans}
guard_bits = 2
{more}
"""


def study(data, *, length=56, plans=PLANS, more=""):
    text = TEXT.format(data=data, length=length, plans=list(plans), more=more)
    return parse_spec(text, where="s.toml")


@pytest.mark.parametrize(
    "data",
    [
        "lines = 80",
        "lines = 80\nembedding = 0.3\nbias = 0.1",
        "lines = 80\nchannels = 4\nkernels = 3",
        "lines = 80\nchannels = 4\nkernels = 3\nembedding = 0.3\nbias = 0.1",
    ],
)
def test_every_plan_measures_what_theory_says(data):
    spec = StudySpec.from_json(study(data).to_json())
    subject = subject_of(spec)
    for point in spec.points():
        found = subject.evaluate(point, 0)
        assert found["overflowed"] == 0
        assert found["sqnr_db"] == pytest.approx(found["predicted_sqnr_db"], abs=0.5), point


def test_an_exact_plan_has_the_words_of_the_direct_one():
    spec = study(
        "lines = 80\nchannels = 4\nkernels = 3\nembedding = 0.3\nbias = 0.1",
        plans=("direct", "ntt"),
        more="data_bits = 7\nkernel_bits = 7",
    )
    subject = subject_of(spec)
    direct, ntt = (subject.evaluate(point, 0) for point in spec.points())
    assert direct == ntt


def test_narrow_words_of_an_embedding_and_a_bias_cost_quality():
    data = "lines = 80\nembedding = 0.3\nbias = 0.1"
    for knob in ("embedding_bits", "bias_bits"):
        spec = study(data, plans=("direct",), more=f"{knob} = [5, 0]")
        subject = subject_of(spec)
        narrow, wide = (subject.evaluate(point, 0) for point in spec.points())
        assert narrow["sqnr_db"] < wide["sqnr_db"] - 10
        assert narrow["sqnr_db"] == pytest.approx(narrow["predicted_sqnr_db"], abs=1.5)


def test_dense_kernels_amplify_nothing_and_cost_what_their_channels_do():
    taps = kernels(LineData(lines=12, kernels=3, channels=4), 28)
    assert taps.shape == (3, 4, 28)
    assert np.abs(spectra(taps)).sum(axis=1).max() == pytest.approx(1.0)
    costs = []
    for data in ("lines = 12\nkernels = 3", "lines = 12\nkernels = 3\nchannels = 4"):
        spec = study(data, length=28, plans=("direct",))
        costs.append(subject_of(spec).cost(spec.points()[0]).multiplications)
    assert costs == [{"16x16": 28**2}, {"16x16": 4 * 28**2}]


def test_the_cost_of_a_split_lies_between_direct_and_fourier_form():
    spec = study("lines = 8", plans=("direct", "8x7", "14x4"))
    direct, eight, fourteen = (subject_of(spec).cost(point) for point in spec.points())
    # 8 x 7: rows 0 and 4 are real, 3 are complex: 2 * 7**2 + 3 * 4 * 7**2 products, and a few
    products = sum(eight.multiplications.values())
    assert 2 * 49 + 12 * 49 <= products <= 2 * 49 + 12 * 49 + 2 * 7 * 2
    assert max(eight.total, fourteen.total) < direct.total / 3


def test_a_split_of_another_length_is_a_refused_point():
    spec = study("lines = 8", length=28, plans=("8x7",))
    found = compute(json_text(spec), spec.points()[0], 0)
    assert "28" in found["refused"]


# ---------------------------------------------------------------- files
@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.uniform(-0.9, 0.9, (80, 28)))
    np.save(tmp_path / "w.npy", rng.normal(size=(8, 28)) / 30)
    return tmp_path


FILES = 'source = "file"\nfile = "x.npy"\nkernels_file = "w.npy"'


def from_file(folder, data=FILES, **changed):
    path = folder / "s.toml"
    path.write_text(TEXT.format(data=data, length=28, plans=["direct"], more="", **changed))
    return load_spec(path)


def json_text(spec):
    import json

    return json.dumps(spec.to_json())


def test_lines_and_kernels_come_from_files(files):
    spec = from_file(files)
    assert (spec.data.lines, spec.data.kernels, spec.data.channels) == (80, 8, 0)
    point = spec.points()[0]
    found = compute(json_text(spec), point, 0)
    x, w = np.load(files / "x.npy"), np.load(files / "w.npy")
    x = x.reshape(8, 10, 28)
    exact = np.fft.irfft(np.fft.rfft(x) * np.conj(np.fft.rfft(w))[:, None], 28)
    assert found["format"] == "Q0.16"
    assert np.abs(exact).max() < 0.5
    assert found["sqnr_db"] == pytest.approx(found["predicted_sqnr_db"], abs=0.5)


def test_a_study_is_the_same_wherever_its_files_lie(files, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for name in ("x.npy", "w.npy"):
        (other / name).write_bytes((files / name).read_bytes())
    assert from_file(files).digest == from_file(other).digest
    np.save(other / "w.npy", np.load(other / "w.npy") * 2)
    assert from_file(files).digest != from_file(other).digest


def test_a_study_without_files_is_the_study_that_it_was():
    # what older journals were written under: new keys count where they are used
    spec = study("lines = 80", plans=("direct",))
    data = {"source": "uniform", "amplitude": 0.9, "lines": 80, "kernels": 8, "seed": 0}
    document = {**spec.to_json(), "data": data}
    del document["title"]
    import hashlib
    import json

    text = json.dumps(document, sort_keys=True)
    assert spec.digest == hashlib.sha256(text.encode()).hexdigest()
    assert dataclasses.replace(spec, data=LineData(lines=80, bias=0.5)).digest != spec.digest


def test_a_file_that_has_changed_is_refused(files):
    spec = from_file(files)
    np.save(files / "x.npy", np.zeros((80, 28)))
    found = compute(json_text(spec), spec.points()[0], 0)
    assert "x.npy has changed since the study began" in found["refused"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (FILES + "\nlines = 4", r"s\.toml:\d+: file says that: leave lines out"),
        (FILES + "\nkernels = 8", "kernels_file says that: leave kernels out"),
        (FILES.replace("x.npy", "y.npy"), r"s\.toml:6: file: cannot read .*y\.npy"),
        ('file = "x.npy"', "accepted: a .npy file, together with source"),
        ('source = "file"', "lacks 'file'"),
        (FILES.replace("w.npy", "s.toml"), "is not a complete .npy file"),
        (FILES + '\nfile_digest = "0"', "unknown key 'file_digest'"),
        ("channels = 3\nlines = 80", "80 lines cannot be dealt over 3 channels"),
        ("embedding = -1", "embedding is -1; accepted: numbers 0 to"),
    ],
)
def test_bad_data_is_told_with_its_line(files, data, message):
    with pytest.raises(InputError, match=message):
        from_file(files, data)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((80, 28), int), "holds int64; accepted are floats"),
        (np.full((80, 28), np.nan), "holds NaN or infinity"),
        (np.zeros((80, 28, 2)), r"has shape \(80, 28, 2\); accepted: 2 axes"),
        (np.zeros((0, 28)), "not empty"),
    ],
)
def test_a_file_of_something_else_is_refused(files, array, message):
    np.save(files / "x.npy", array)
    with pytest.raises(InputError, match=message):
        from_file(files)


def test_transforms_take_complex_lines_from_a_file(files):
    np.save(files / "z.npy", np.random.default_rng(1).uniform(-0.6, 0.6, (50, 64, 2)))
    text = (
        'schema = 1\nname = "s"\nsubject = "fft"\n[data]\nsource = "file"\nfile = "z.npy"\n{}'
        "[grid]\nlength = [64, 32]\n"
    )
    path = files / "s.toml"
    path.write_text(text.format(""))
    spec = load_spec(path)
    good, bad = (compute(json_text(spec), point, 0) for point in spec.points())
    assert good["sqnr_db"] == pytest.approx(good["predicted_sqnr_db"], abs=0.5)
    assert "has 64 points per line, and this point's length is 32" in bad["refused"]
    path.write_text(text.format("bias = 0.5\n"))
    with pytest.raises(InputError, match="a transform has no kernel: leave bias out"):
        load_spec(path)


@pytest.mark.parametrize("plan", ["8x", "0x7", "8X7", "winograd"])
def test_a_plan_that_is_none_is_told_what_there_is(plan):
    with pytest.raises(InputError, match="direct, fft, ntt or N1xN2, the two-level split"):
        study("lines = 8", plans=(plan,))
