"""Study specifications: what they mean, and what a wrong one is told."""

from __future__ import annotations

import re

import pytest

from parc_hw.errors import InputError
from parc_hw.study.knobs import KNOBS, canonical
from parc_hw.study.spec import StudySpec, load_spec, parse_spec
from parc_hw.toml_lines import key_lines, line_of

HEAD = 'schema = 1\nname = "s"\nsubject = "parc"\n'
FFT = HEAD.replace("parc", "fft")
MODEL = HEAD.replace("parc", "model")
SEARCH = HEAD + "[search.hold]\nsqnr_db = 50\n[search.over]\ndata_bits = {from = 8, to = 12}\n"


def test_a_grid_is_all_combinations_in_the_order_of_the_file():
    spec = parse_spec(
        HEAD + "[grid]\ndata_bits = [8, 10]\nkernel_bits = {from = 4, to = 12, step = 4}\n",
        where="s.toml",
    )
    found = [(point["data_bits"], point["kernel_bits"]) for point in spec.points()]
    assert found == [(8, 4), (8, 8), (8, 12), (10, 4), (10, 8), (10, 12)]


def test_several_grids_are_joined_and_equal_points_kept_once():
    text = HEAD + "[[grid]]\ndata_bits = [8, 10]\n[[grid]]\ndata_bits = [10, 12]\n"
    assert [p["data_bits"] for p in parse_spec(text, where="s").points()] == [8, 10, 12]


def test_knobs_that_a_plan_does_not_have_make_no_points():
    text = HEAD + '[grid]\nplan = ["direct", "fft"]\ntwiddle_bits = [8, 12, 16]\n'
    plans = [point["plan"] for point in parse_spec(text, where="s").points()]
    assert plans == ["direct", "fft", "fft", "fft"]


@pytest.mark.parametrize("subject", KNOBS)
def test_a_point_of_defaults_is_canonical(subject):
    point = canonical(subject, {})
    assert canonical(subject, point) == point
    assert set(point) <= set(KNOBS[subject])


def test_scaling_schedules_are_all_shifts_of_all_stages():
    text = SEARCH + "scaling = {stages = 3, from = 0, to = 1}\n"
    over = dict(parse_spec(text, where="s").search.over)
    assert len(over["scaling"]) == 8
    assert [1, 0, 1] in over["scaling"]


@pytest.mark.parametrize(
    "text",
    [
        HEAD + "[data]\nlines = 80\n[grid]\ndata_bits = [8]\nscaling = ['half', [1, 0]]\n",
        SEARCH + "[cost]\nmemory_bit = 0\n",
        MODEL + "[data]\ncanvases = 5\n[grid]\nmodel = ['parc_canvas', 'conv_canvas']\n",
        FFT + "[[grid]]\nprofile = ['cmsis_q15']\nlength = [16, 64]\n",
    ],
)
def test_json_round_trip_keeps_the_study_and_its_hash(text):
    spec = parse_spec(text, where="s")
    again = StudySpec.from_json(spec.to_json())
    assert again == spec
    assert again.digest == spec.digest


def test_the_hash_is_that_of_the_meaning():
    plain = parse_spec(HEAD + "[grid]\ndata_bits = [8]\n", where="a")
    written_out = parse_spec(
        HEAD + "title = 'other'\n[data]\nlines = 1000\n[grid]\ndata_bits = {from = 8, to = 8}\n",
        where="b",
    )
    other = parse_spec(HEAD + "[data]\nlines = 1008\n[grid]\ndata_bits = [8]\n", where="c")
    assert plain.digest == written_out.digest
    assert plain.digest != other.digest


def test_shipped_examples_are_valid(repository):
    names = {load_spec(path).name for path in (repository / "examples").glob("*.toml")}
    assert {"canvas_accuracy", "wordlength_search_56"} <= names


BAD = [
    ("nam = 's'\nschema = 1", "s.toml:1: unknown key 'nam' in the study. Did you mean name?"),
    (HEAD + "[grid]\ndata_bitz = [8]", "s.toml:5: unknown key 'data_bitz' in [grid]. Did you mean"),
    (HEAD + "[[grid]]\ndata_bits = [8]\n[[grid]]\nplan = ['dirct']", "s.toml:7: plan is 'dirct'"),
    (
        HEAD + "[grid]\nplan = ['dirct']",
        "accepted: direct, fft, ntt or N1xN2, the two-level split. Did you mean direct?",
    ),
    (HEAD + "[grid]\nprofile = ['none']", "A study of parc has length, plan"),
    (HEAD + "[grid]\ndata_bits = [8, 64]", "data_bits is 64; accepted: whole numbers 2 to 32"),
    (HEAD + "[grid]\ndata_bits = [8.0]", "data_bits is 8.0; accepted: whole numbers"),
    (HEAD + "[grid]\ndata_bits = []", "s.toml:5: data_bits has no values."),
    (HEAD + "[grid]\ndata_bits = [8, 8]", "data_bits has a value twice: [8, 8]"),
    (HEAD + "[grid]\ndata_bits = {from = 9, to = 8}", "goes from 9 to 8: that is no value"),
    (HEAD + "[grid]\ndata_bits = {from = 8}", "s.toml:5: [grid.data_bits] lacks 'to'"),
    (HEAD + "[grid]\ndata_bits = {from = 8, too = 9}", "unknown key 'too' in [grid.data_bits]"),
    (HEAD + "[grid]\nscaling = [[1, -1]]", "scaling is [1, -1]; accepted: half, none, growing"),
    (HEAD + "[grid]\nscaling = {stages = 20, from = 0, to = 9}", "schedules of 20 stages; accept"),
    (HEAD + "[common]\nlength = 7\n[grid]\nlength = [7]", "length is in [common] already"),
    (HEAD + "[common]\nlenght = 7\n[grid]\ndata_bits = [7]", "s.toml:5: unknown key 'lenght' in"),
    (HEAD, "neither a [grid] nor a [search]"),
    (HEAD + "grid = 3", "s.toml:4: grid is 3; accepted: a table, or several [[grid]] tables"),
    (HEAD + "[data]\nlines = 'many'\n[grid]", "s.toml:5: lines is 'many'; accepted: whole numbers"),
    (HEAD + "[data]\nlines = 10\nkernels = 4\n[grid]", "10 lines cannot be dealt over 4 kernels"),
    (HEAD + "[data]\nsource = 'unifrm'\n[grid]", "uniform, normal, file. Did you mean uniform?"),
    (HEAD + "[data]\ncanvases = 5\n[grid]", "unknown key 'canvases' in [data]"),
    (FFT + "[data]\nkernels = 4\n[grid]", "a transform has no kernel"),
    (HEAD.replace("1", "2") + "[grid]", "s.toml:1: schema is 2; accepted: 1, the version"),
    (HEAD.replace('"s"', '"a b"') + "[grid]", "s.toml:2: name is 'a b'; accepted: letters, digits"),
    (HEAD.replace("parc", "parcs") + "[grid]", "subject is 'parcs'; accepted: parc, fft, model."),
    (HEAD.replace("parc", "parcs") + "[grid]", "Did you mean parc?"),
    (
        HEAD + "[cost]\nmemory = 1\n[grid]",
        "unknown key 'memory' in [cost]. Did you mean memory_bit",
    ),
    (HEAD + "[cost]\nmemory_bit = -1\n[grid]", "memory_bit is -1; accepted: numbers 0 to"),
    (MODEL + "[grid]\nmodel = ['parc_canvs']", "Did you mean parc_canvas"),
    (SEARCH.replace("sqnr_db", "snr"), "unknown key 'snr' in [search.hold]. Did you mean sqnr_db"),
    (SEARCH.replace("sqnr_db", "accuracy"), "unknown key 'accuracy' in [search.hold]"),
    (SEARCH.replace("sqnr_db = 50", ""), "[search.hold] names 0 qualities; accepted: one of sqnr"),
    (SEARCH.replace("50", "'high'"), "sqnr_db is 'high'; accepted: numbers -300 to 400"),
    (
        HEAD + "[search]\nmethods = ['greedi']\nhold.sqnr_db = 5\nover.data_bits = 8",
        "s.toml:5: meth",
    ),
    (HEAD + "[search]\nhold.sqnr_db = 5", "[search.over] is empty: name at least one knob"),
    (HEAD + "x = [", "is not valid TOML"),
]


@pytest.mark.parametrize("text, message", BAD)
def test_what_is_wrong_is_told_with_its_line(text, message):
    with pytest.raises(InputError, match=re.escape(message)):
        parse_spec(text, where="s.toml")


def test_a_grid_of_too_many_points_is_refused_before_it_is_made():
    knobs = "".join(
        f"{name} = {{from = 3, to = 32}}\n" for name in ("data_bits", "kernel_bits", "twiddle_bits")
    )
    text = HEAD + "[grid]\n" + knobs + "length = {from = 1, to = 1000}\n"
    with pytest.raises(InputError, match="27000000 points; accepted: at most 1000000"):
        parse_spec(text, where="s.toml")


def test_a_file_that_is_not_there_or_no_text(tmp_path):
    with pytest.raises(InputError, match=r"cannot read the study .*No such file"):
        load_spec(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="is not UTF-8 text"):
        load_spec(tmp_path / "bytes.toml")


def test_lines_are_found_through_strings_comments_and_arrays():
    text = '''a = """
[not.a.table]
b = 1
"""
# [also.not] = 3
"quoted key" = [
  "x = 1",
]
[t.u]
v = {w = 1,
     z = 2}
'''
    found = key_lines(text)
    assert found == {("a",): 1, ("quoted key",): 6, ("t", "u"): 9, ("t", "u", "v"): 10}
    assert line_of(text, ("t", "u", "v", "z")) == 11
    assert line_of(text, ("nowhere",)) == 1
