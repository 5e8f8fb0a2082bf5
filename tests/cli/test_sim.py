"""`parc-hw sim`: what a user types, and what comes back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fixedpoint import QFormat, parc, vectors
from parc_hw.spec import Axis, ParcSpec

SMALL = ("--length", "14", "--channels", "2", "--lines", "6")


def test_the_issues_line_prints_errors_stages_and_a_certificate(cli) -> None:
    outcome = cli(
        "sim", "parc", "--length", "56", "--format", "Q1.15", "--plan", "fft", "--scaling", "half"
    )
    assert outcome.code == 0
    assert outcome.err == ""
    for text in (
        "ParC along H: 56 points, 1 x 4 channels depthwise, 64 lines each",
        "plan fft dif 4x2x7",
        "white noise from --seed",
        "14336 words of Q1.15 against exact arithmetic",
        "SQNR",
        "predicted",
        "forward 0 (r4)",
        "inverse 2 (r4)",
        "For this kernel and every input from -1 to 0.999969:",
        "An input overflows at forward 0 (r4); the simulator confirms it.",
    ):
        assert text in outcome.out


def test_inputs_that_leave_room_cannot_overflow(cli) -> None:
    outcome = cli("sim", "parc", "--peak", "0.99", *SMALL)
    assert "Overflow is impossible at every stage, whatever the input." in outcome.out


@pytest.mark.parametrize(
    "plan", [["direct"], ["fft"], ["7x2"], ["ntt", "--format", "Q1.7"], ["fft", "--pairs"]]
)
def test_every_plan_answers_in_json(cli, plan) -> None:
    outcome = cli("--json", "sim", "parc", "--plan", *plan, *SMALL)
    assert outcome.code == 0
    document = outcome.json
    assert document["spec"]["height"] == 14
    assert document["error"]["sqnr_db"] > 20
    low, high = (document["predicted"][end]["rms_lsb"] for end in ("low", "high"))
    assert (
        0.9 * low < document["error"]["rms_lsb"] < 1.12 * high
    )  # 84 words a channel: a few per cent
    assert document["stages"][0]["name"] == "input"
    assert document["stages"][-1]["name"] == "output"
    assert document["certificate"]["verdict"] in ("impossible", "overflows", "not decided")


@pytest.mark.parametrize("columns", [80, 120])
def test_tables_keep_to_the_terminal(cli, monkeypatch, columns) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    for arguments in (("parc",), ("parc", "--plan", "8x7"), ("fft",)):
        outcome = cli("sim", *arguments)
        sentences = ("Overflow", "An input", "With the", "Words over", "For this", "kernel ")
        for line in outcome.out.splitlines():
            assert len(line) <= columns or line.startswith(sentences)


def test_seed_and_options_decide_every_word(cli) -> None:
    first = cli("--json", "--seed", "5", "sim", "parc", *SMALL).json
    again = cli("--json", "--seed", "5", "sim", "parc", *SMALL).json
    other = cli("--json", "--seed", "6", "sim", "parc", *SMALL).json
    assert first == again
    assert first["error"] != other["error"]


# ---------------------------------------------------------------- files
def test_a_users_arrays_come_in_and_vectors_go_out(cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    x = rng.integers(-32768, 32768, (2, 3, 5, 14))
    w, bias = rng.integers(-2000, 2000, (3, 14)), rng.integers(-99, 99, 3)
    pe = rng.integers(-999, 999, (3, 14))
    names = {"input": x, "weight": w, "bias": bias, "position-embedding": pe}
    arguments = []
    for name, array in names.items():
        np.save(tmp_path / f"{name}.npy", array)
        arguments += [f"--{name}", tmp_path / f"{name}.npy"]
    outputs = [tmp_path / f"y{suffix}" for suffix in (".npy", ".mem", ".hex")]
    for output in outputs:
        arguments += ["-o", output]
    outcome = cli(
        "sim", "parc", "--axis", "W", "--plan", "direct", "--accumulator", "Q6.30", *arguments
    )
    assert outcome.code == 0
    assert "words of Q1.15; batch, channel, row, column, the last axis fastest" in outcome.err

    from fixedpoint import Cut, DirectDatapath

    fmt = QFormat.parse("Q1.15")
    spec = ParcSpec(
        axis=Axis.W, batch=2, channels=3, height=5, width=14, position_embedding=True, bias=True
    )
    path = DirectDatapath(
        data=fmt, kernel=fmt, position_embedding=fmt, bias=fmt, output=Cut(fmt),
        accumulator=Cut(QFormat(6, 30)),
    )  # fmt: skip
    y = parc(x, w, spec=spec, plan="direct", datapath=path, position_embedding=pe, bias=bias)
    assert (np.load(outputs[0]) == y).all()
    for output in outputs[1:]:
        assert (vectors.read_hex(output.read_text(), fmt) == y.reshape(-1)).all()
        for name, words in (("input", x), ("weight", w), ("bias", bias), ("embedding", pe)):
            beside = output.with_name(f"y.{name}{output.suffix}")
            assert (vectors.read_hex(beside.read_text(), fmt) == words.reshape(-1)).all()
    head = outputs[1].read_text().splitlines()[:2]
    assert (
        head[0] == "// output: 420 words of Q1.15, 16 bits, two's complement, 4 hexadecimal digits"
    )
    assert head[1] == (
        "// order: batch, channel, row, column; shape 2 x 3 x 5 x 14, the last axis fastest"
    )


def test_floats_are_quantised_and_their_rounding_is_told_apart(cli, tmp_path: Path) -> None:
    x = np.random.default_rng(3).uniform(-0.5, 0.5, (1, 2, 14, 6)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    outcome = cli("--json", "sim", "parc", "--plan", "direct", "--input", tmp_path / "x.npy")
    document = outcome.json
    assert document["spec"]["channels"] == 2
    assert document["error_with_quantisation"]["rms_lsb"] > document["error"]["rms_lsb"]


def test_a_witness_overflows_when_it_is_run(cli, tmp_path: Path) -> None:
    witness = tmp_path / "worst.npy"
    options = ("--plan", "direct", "--accumulator", "Q1.30", *SMALL)
    rng = np.random.default_rng(1)
    np.save(tmp_path / "w.npy", rng.integers(-9000, 9000, (2, 14)))
    weights = ("--weight", tmp_path / "w.npy")
    outcome = cli("sim", "parc", *options, *weights, "--witness", witness)
    assert "An input overflows at accumulator" in outcome.out
    document = cli("--json", "sim", "parc", *options, *weights, "--input", witness).json
    assert next(s for s in document["stages"] if s["name"] == "accumulator")["overflowed"] > 0
    outcome = cli("sim", "parc", *SMALL, "--peak", "0.9", "--witness", tmp_path / "none.npy")
    assert "is not written: no input was found that overflows" in outcome.err
    assert not (tmp_path / "none.npy").exists()


def test_stored_constants_are_written_for_a_test_bench(cli, tmp_path: Path) -> None:
    for plan, name in (("fft", "spectrum"), ("7x2", "table")):
        output = tmp_path / f"{name}.mem"
        cli("sim", "parc", "--plan", plan, *SMALL, "--no-certificate", "-o", output)
        text = (tmp_path / f"{name}.{name}.mem").read_text()
        count = {"spectrum": 2 * 14 * 2, "table": 2 * 7 * 3}[name]
        assert text.startswith(f"// {name}: {count} words of Q")


def test_a_studys_datapath_file_runs(cli, tmp_path: Path) -> None:
    first = cli("--json", "sim", "parc", "--plan", "direct", "--product", "Q2.15", *SMALL).json
    file = tmp_path / "datapath.json"
    document = {"schema": 1, "kind": "parc", "plan": "direct", "datapath": first["datapath"]}
    file.write_text(json.dumps(document))
    again = cli("--json", "sim", "parc", "--datapath", file, *SMALL).json
    assert again["error"] == first["error"]
    outcome = cli("sim", "parc", "--datapath", file, "--rounding", "floor")
    assert outcome.code == 2
    assert "--rounding says what --datapath" in outcome.err
    file.write_text(json.dumps({"kind": "model"}))
    assert "is of kind 'model'; `sim parc` takes" in cli("sim", "parc", "--datapath", file).err


# ---------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--plan", "sfft"], 2, "plan 'sfft' is not understood; accepted are direct, fft, ntt"),
        (["--length", "46"], 3, "no fixed-point FFT for length 46"),
        (["--format", "Q15"], 2, "Write Q1.15"),
        (["--scaling", "1,1"], 2, "2 shifts, and dif 4x2x7"),
        (["--overflow", "clip"], 2, "--overflow 'clip' is none. Accepted: saturate, wrap, raise"),
        (["--rounding", "nearst"], 2, "'nearst' is no rounding. Did you mean"),
        (["--plan", "direct", "--scaling", "none"], 2, "--scaling has no meaning for --plan direct"),
        (["--peak", "1.5"], 2, "--peak 1.5 is out of range: accepted are values above 0 and up to 1"),
        (["--radices", "4,4"], 2, "--radices 4,4 multiply to 16, but the axis has 56 points"),
        (["--format", "Q1.40"], 3, "product"),
        (["--plan", "ntt"], 3, "data_bits + kernel_bits <= 26"),
        (["-o", "y.txt"], 2, "-o y.txt: results are written as .npy, .hex, .mem"),
        (["--input", "missing.npy"], 2, "cannot read --input missing.npy"),
        (["--overflow", "raise", "--plan", "direct", "--accumulator", "Q-4.30"], 2, "accumulator: the value"),
        (["--axis", "V"], 2, "axis must be H"),
        (["--scaling", "block", "--certificate"], 2, "--certificate: with block floating point"),
    ],
)  # fmt: skip
def test_what_cannot_be_says_why(cli, arguments, code, message) -> None:
    outcome = cli("sim", "parc", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


def test_files_that_hold_the_wrong_thing(cli, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for array, message in (
        (np.zeros((3, 14)), "has shape 3x14; accepted: *x*x*x*"),
        (np.full((1, 1, 14, 2), np.nan), "is no finite number"),
        (np.full((1, 1, 14, 2), 40000), "40000 at index (0, 0, 0, 0) is outside Q1.15"),
        (np.zeros((1, 1, 14, 2), complex), "holds complex128; accepted are integers"),
        (np.zeros((0, 1, 14, 2)), "holds no word"),
    ):
        np.save(path, array)
        outcome = cli("sim", "parc", "--input", path)
        assert outcome.code == 2
        assert message in outcome.err
    path.write_bytes(b"not an array")
    assert "is not a complete .npy file" in cli("sim", "parc", "--input", path).err


# ---------------------------------------------------------------- fft
def test_a_transform_is_measured_beside_theory(cli) -> None:
    document = cli("--json", "sim", "fft", "--length", "64", "--lines", "400").json
    measured, predicted = document["error"]["rms_lsb"], document["predicted"]["rms_lsb"]
    assert abs(20 * np.log10(measured / predicted)) < 0.5
    assert [stage["name"] for stage in document["stages"]] == [
        f"stage {k} (radix 4)" for k in range(3)
    ]


@pytest.mark.parametrize(
    "profile, length",
    [
        ("cmsis_q15", 64),
        ("kissfft_16", 56),
        ("dblclockfft:bits=16,max_bits=20", 64),
        ("xfft_like", 64),
    ],
)
def test_profiles_run_forward_and_back(cli, profile, length) -> None:
    for extra in ([], ["--inverse"]):
        outcome = cli("--json", "sim", "fft", "--profile", profile, "--length", length, *extra)
        assert outcome.code == 0
        assert outcome.json["error"]["sqnr_db"] > 50
    shown = cli("sim", "fft", "--profile", profile, "--length", length).out
    assert ("not verified" in shown) == (profile == "xfft_like")


def test_block_floating_point_shows_its_exponents(cli) -> None:
    outcome = cli("sim", "fft", "--scaling", "block", "--length", "64", "--peak", "0.01")
    assert "block exponents" in outcome.out
    assert "errors are those of the mantissas" in outcome.out


def test_a_transforms_words_go_out(cli, tmp_path: Path) -> None:
    output = tmp_path / "z.hex"
    outcome = cli("sim", "fft", "--length", "14", "--lines", "3", "-o", output)
    assert "84 words of Q5.11; line, point, real and imaginary part" in outcome.err
    assert len(output.read_text().split()) == 84
    assert len((tmp_path / "z.input.hex").read_text().split()) == 84


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--profile", "cmsis"], 2, "no profile 'cmsis'. Did you mean"),
        (["--profile", "cmsis_q15:bits=3"], 2, "cmsis_q15 takes no parameters"),
        (["--profile", "dblclockfft:bit=3"], 2, "dblclockfft takes bits"),
        (["--profile", "cmsis_q15", "--length", "56"], 3, "no transform of length 56"),
        (
            ["--profile", "cmsis_q15", "--scaling", "half"],
            2,
            "--scaling has no meaning with --profile",
        ),
        (["--decimation", "dix"], 2, "dix"),
        (["--radices", "4,x"], 2, "expected whole numbers"),
    ],
)
def test_transforms_that_cannot_be(cli, arguments, code, message) -> None:
    outcome = cli("sim", "fft", *arguments)
    assert (outcome.code, outcome.out) == (code, "")
    assert message in outcome.err


# ---------------------------------------------------------------- model
@pytest.mark.torch
@pytest.mark.tvm
def test_a_network_runs_in_integers(cli, tmp_path: Path) -> None:
    output = tmp_path / "logits.npy"
    outcome = cli("sim", "model", "parc_canvas", "--dtype", "int16", "--images", "4", "-o", output)
    assert outcome.code == 0, outcome.err
    assert "for 4 of 4 images" in outcome.out
    assert "test canvases" in outcome.out
    assert np.load(output).shape == (4, 10)
    assert np.load(output).dtype == np.int64


@pytest.mark.torch
@pytest.mark.tvm
def test_a_network_that_cannot_be(cli, tmp_path: Path) -> None:
    assert "no model is called 'parc_canvs'. Did you" in cli("sim", "model", "parc_canvs").err
    outcome = cli("sim", "model", "parc_canvas", "--dtype", "int12")
    assert outcome.code == 2
    assert "unknown dtype 'int12'" in outcome.err


# ---------------------------------------------------------------- frame
def test_the_group_names_its_commands(cli) -> None:
    outcome = cli("sim", "--help")
    assert outcome.code == 0
    for name in ("fft", "parc", "model"):
        assert f"\n  {name} " in outcome.out
    outcome = cli("sim", "prac")
    assert outcome.code == 2
    assert "Did you mean parc" in outcome.err


def test_defaults_may_stand_in_a_configuration_file(cli, tmp_path: Path) -> None:
    config = tmp_path / "parc_hw.toml"
    config.write_text('[sim.parc]\nlength = 14\nplan = "direct"\n')
    outcome = cli("--config", config, "sim", "parc")
    assert "14 points" in outcome.out
    assert "plan direct" in outcome.out
    config.write_text("[sim.parc]\nlenght = 14\n")
    assert (
        "sim parc has no option 'lenght'. Did you mean length"
        in cli("--config", config, "sim", "parc").err
    )
    config.write_text("[sim.prac]\nlength = 14\n")
    assert (
        "sim has no command 'prac'. Did you mean parc" in cli("--config", config, "sim", "parc").err
    )


def test_sim_works_as_a_program(repository: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "parc_hw", "sim", "parc", "--length", "7", "-o", tmp_path / "y.mem"],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "ParC along H: 7 points" in done.stdout
    assert done.stderr.count("words of Q") == 4  # output, input, weight, spectrum
