"""The frame of the command line: global options, errors, exit codes, start-up."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from parc_hw import errors
from parc_hw.cli import main as frame
from parc_hw.version import VERSION

COMMANDS = (
    *("doctor", "targets", "models", "analyze", "compile", "export", "run", "verify", "bench"),
    *("profile", "tune", "study", "train", "sim", "records", "accel"),
)
HEAVY = ("tvm", "tvm_ffi", "torch", "numba", "numpy", "scipy", "onnx", "onnxruntime")


def shell(*arguments, cwd, **environment):
    """Run `python -m parc_hw ARGUMENTS` as a user would."""
    return subprocess.run(
        [sys.executable, "-m", "parc_hw", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "NO_COLOR": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_help_lists_every_command(cli):
    outcome = cli("--help")
    assert outcome.code == 0
    listed = [line.split()[0] for line in outcome.out.split("Commands:")[1].splitlines() if line]
    assert tuple(listed[: len(COMMANDS)]) == COMMANDS


def test_no_command_shows_the_help(cli):
    assert cli().out == cli("--help").out


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_has_a_help_and_mentions_global_options(cli, command):
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert f"parc-hw {command}" in outcome.out
    assert "Global options" in outcome.out


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_no_heavy_package(repository, command):
    program = (
        "import sys; from parc_hw.cli.main import main; "
        f"main({[*command.split(), '--help']!r}); "
        f"sys.exit([name for name in {HEAVY!r} if name in sys.modules] or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_help_takes_less_than_three_tenths_of_a_second(repository):
    # Processor time, which is the time a user waits on a machine that is not busy with tests.
    times = []
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-m", "parc_hw", "--help"], cwd=repository, stdout=subprocess.DEVNULL
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        times.append(usage.ru_utime + usage.ru_stime)
    assert min(times) < 0.3, times


def test_unknown_command_names_the_nearest(cli):
    outcome = cli("compil", "parc_canvas")
    assert outcome.code == 2
    assert "No such command: compil. Did you mean compile?" in outcome.err
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("compile", "x", "--taget", "host"), "Did you mean --target"),
        (("compile", "x", "--jsn"), "Did you mean --json"),
        (("--sed", "3", "models"), "Did you mean --seed"),
        (("run", "x", "--inputs", "y"), "Did you mean --input"),
    ],
)
def test_unknown_option_names_the_nearest(cli, arguments, hint):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert "No such option" in outcome.err
    assert hint in outcome.err
    assert "--help` " not in outcome.out


@pytest.mark.parametrize(
    "arguments",
    [
        ("compile",),
        ("run",),
        ("run", "bundle"),
        ("verify",),
        ("bench", "x", "--threads", "0"),
        ("--seed", "-1", "models"),
        ("--seed", "many", "models"),
        ("train", "parc_canvas"),
    ],
)
def test_bad_usage_is_exit_code_2_and_points_to_the_help(cli, arguments):
    outcome = cli(*arguments)
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert "--help`" in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("no"), 2),
        (errors.BundleError("no"), 2),
        (errors.UnsupportedError("no"), 3),
        (errors.VerificationError("no"), 4),
        (errors.ToolchainError("no"), 5),
        (errors.MeasurementError("no"), 6),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_kind_of_error_has_its_exit_code(cli, monkeypatch, error, code):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("parc_hw.device.device_names", fail)
    outcome = cli("targets")
    assert outcome.code == code
    assert outcome.err.startswith("error: ")
    assert "Traceback" not in outcome.err


def test_an_unexpected_exception_is_called_our_bug_on_one_line(cli, monkeypatch):
    monkeypatch.setattr("parc_hw.device.device_names", lambda: {}["gone"])
    outcome = cli("targets")
    assert outcome.code == 1
    assert "this is a bug in parc_hw: KeyError: 'gone'" in outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("flag", ["-v", "--verbose", "-vv"])
def test_verbose_adds_the_traceback(cli, monkeypatch, flag):
    monkeypatch.setattr("parc_hw.device.device_names", lambda: {}["gone"])
    outcome = cli("targets", flag)
    assert outcome.code == 1
    assert "Traceback (most recent call last)" in outcome.err


def test_json_is_the_only_thing_on_stdout(cli):
    outcome = cli("--json", "targets")
    assert outcome.json[0]["target"] == "host"


def test_global_options_may_follow_the_command(cli):
    assert cli("targets", "--json").out == cli("--json", "targets").out


def test_errors_leave_stdout_empty_with_json(cli):
    outcome = cli("targets", "nothing", "--json")
    assert (outcome.code, outcome.out) == (2, "")


def test_arguments_after_two_dashes_are_not_taken_for_global_options():
    assert frame._globals_first(["run", "--", "--json"]) == ["run", "--", "--json"]


def test_version_names_all_that_can_change_a_result(cli):
    found = cli("--version", "--json").json
    assert found["parc_hw"] == VERSION
    assert {"tvm", "llvm", "numba", "torch", "numpy"} <= set(found)
    assert found["tvm"].startswith("0.27")
    assert int(found["llvm"]) >= 15


class TestConfig:
    """Defaults from a file."""

    def test_values_apply_unless_given(self, cli, tmp_path, monkeypatch):
        seen = {}
        monkeypatch.setattr(
            "parc_hw.cli.analyze.analyse",
            lambda session, model, target, weights, shape, plan, records: seen.update(
                target=target, seed=session.seed, plan=plan
            ),
        )
        monkeypatch.setattr("parc_hw.cli.analyze.show", lambda session, analysis: None)
        file = tmp_path / "parc_hw.toml"
        file.write_text('seed = 5\n[analyze]\ntarget = "rk3288"\nplan = "fft"\n')
        assert cli("--config", file, "analyze", "m", "--plan", "direct").code == 0
        assert seen == {"target": "rk3288", "seed": 5, "plan": "direct"}
        assert cli("--config", file, "--seed", "6", "analyze", "m").code == 0
        assert seen["seed"] == 6

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("seed = ", "is not valid TOML"),
            ("[compil]\n", "'compil' is neither .* Did you mean compile"),
            ("compile = 3\n", "'compile' is neither"),
            ('[compile]\ntaget = "host"\n', "compile has no option 'taget'. Did you mean target"),
            ("seed = 'many'\n", "seed must be a whole number, not 'many'"),
        ],
    )
    def test_mistakes_are_named(self, cli, tmp_path, text, message):
        import re

        file = tmp_path / "parc_hw.toml"
        file.write_text(text)
        outcome = cli("--config", file, "targets")
        assert outcome.code == 2
        assert re.search(message, outcome.err)

    def test_a_missing_file_is_named(self, cli, tmp_path):
        outcome = cli("--config", tmp_path / "none.toml", "targets")
        assert outcome.code == 2
        assert "cannot read --config" in outcome.err


def test_a_closed_pipe_is_no_error(repository):
    done = subprocess.run(
        f"{sys.executable} -m parc_hw targets --json | head -c 1",
        cwd=repository,
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "[", "")


# One call of each command as a process: the code the shell sees and what it prints.
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("doctor",), 0, "LLVM in TVM"),
        (("targets", "rk3288"), 0, "Rockchip"),
        (("models", "no_such_model"), 2, "no_such_model"),
        (("analyze", "model.onnx"), 2, "there is no file model.onnx"),
        (("compile", "parc_canvas"), 2, "Add -o DIR"),
        (("run", "no_bundle", "-i", "x.npy"), 2, "no_bundle"),
        (("verify", "no_bundle"), 2, "no_bundle"),
        (("bench", "no_bundle"), 2, "no_bundle"),
        (("train", "parc_canvas", "-o", "x.txt"), 2, "safetensors"),
    ],
)
def test_as_a_process(repository, arguments, code, words):
    done = shell(*arguments, cwd=repository)
    assert done.returncode == code, done.stderr
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_json_of_a_process_is_one_document(repository):
    done = shell("models", "--json", cwd=repository)
    assert {entry["name"] for entry in json.loads(done.stdout)} >= {"parc_convnext_xt"}
