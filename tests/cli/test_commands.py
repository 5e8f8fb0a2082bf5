"""What each command passes on, prints and refuses."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from parc_hw import build
from parc_hw.artifact.verify import VerifyReport, VerifyRow
from parc_hw.device import device_names, load_device


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Record what the command asks `parc_hw.build.compile` for, and make a directory."""
    seen = {}

    def compile_(model, *, output, progress, **options):
        seen.update(options, model=model, output=output)
        progress("kernels", 1, 2, "k0")
        progress("kernels", 2, 2, "k1")
        output.mkdir()
        manifest = {
            "source": {"model": "m", "weights": "trained", "verified_on": "photographs"},
            "memory": {
                "code_bytes": 2048,
                "arena_bytes": 1200,
                "live_peak_bytes": 1000,
                "workspace_bytes": 4096,
            },
            "weights": {"bytes": 1024},
            "kernels": [{}],
            "shapes": [{"layers": []}],
            "threads": options["threads"],
            "verification": {"worst": 2e-5} if options["verify"] else None,
        }
        return SimpleNamespace(manifest=manifest, device=load_device("rk3288"))

    monkeypatch.setattr(build, "compile", compile_)
    return seen


class TestCompile:
    def test_passes_all_options_on(self, cli, compiled, tmp_path):
        where = tmp_path / "b"
        outcome = cli(
            *("compile", "parc_convnext_xt", "--target", "rk3288", "-o", where),
            *("--input-shape", "2x3x64x96", "--name", "net", "--plan", "14x1", "--threads", "3"),
            *("--no-verify", "--force", "--dump", "tir,asm", "--seed", "9", "--weights", "w.pt"),
            *("--records", "none"),
        )
        assert outcome.code == 0, outcome.err
        assert compiled["records"] is None
        assert compiled["model"] == "parc_convnext_xt"
        assert compiled["target"] == "rk3288"
        assert compiled["output"] == where
        assert compiled["input_shape"] == [(2, 3, 64, 96)]
        assert compiled["name"] == "net"
        assert compiled["plan"] == "14x1"
        assert compiled["threads"] == 3
        assert compiled["verify"] is False
        assert compiled["force"] is True
        assert compiled["dump"] == ("tir", "asm")
        assert compiled["seed"] == 9
        assert str(compiled["weights"]) == "w.pt"
        assert "not verified" in outcome.out

    def test_verifies_by_default_and_reports_progress_on_stderr(self, cli, compiled, tmp_path):
        outcome = cli("compile", "parc_convnext_xt", "-o", tmp_path / "b", "--json")
        assert compiled["verify"] is True
        assert outcome.json["manifest"]["memory"]["code_bytes"] == 2048
        assert "kernels" in outcome.err
        assert "2/2" in outcome.err

    def test_says_how_large_and_how_exact(self, cli, compiled, tmp_path):
        out = cli("compile", "parc_convnext_xt", "-o", tmp_path / "b").out
        assert "1.20 times what is live at one call" in out
        assert "verified on photographs: worst error 2.0e-05 of the deviation" in out

    def test_quiet_says_nothing_on_stderr(self, cli, compiled, tmp_path):
        assert cli("-q", "compile", "parc_convnext_xt", "-o", tmp_path / "b").err == ""

    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (("parc_convnext_tx",), 2, "Did you mean parc_convnext_xt"),
            (("parc_convnext_xt", "--target", "rk328"), 2, "Did you mean rk3288"),
            (("parc_convnext_xt", "--input-shape", "1x3x0x4"), 2, "is not a shape"),
            (("parc_convnext_xt", "--input-shape", "big"), 2, "for example 1x3x224x224"),
            (("parc_convnext_xt", "--plan", "drect"), 2, "Did you mean direct"),
            (("parc_convnext_xt", "--dump", "tir,as"), 2, "'as' is not a stage. Did you mean asm"),
            (("parc_convnext_xt", "--threads", "65"), 2, "less than or equal to 64"),
            (("parc_convnext_xt", "--threads", "0"), 2, "greater than or equal to 1"),
            (("parc_convnext_xt", "--target", "no/box.toml"), 2, "box.toml cannot be read"),
            (("net.pt2",), 2, "there is no file net.pt2"),
            (("net.onnx",), 2, "there is no file net.onnx"),
            (("json:dumps",), 2, "needs --input-shape"),
            (("no_module_x:f", "--input-shape", "1x1"), 2, "cannot import 'no_module_x'"),
            (("json:dump_s", "--input-shape", "1x1"), 2, "Did you mean dumps"),
        ],
    )
    def test_refuses_bad_input_before_any_work(
        self, cli, compiled, tmp_path, arguments, code, message
    ):
        outcome = cli("compile", *arguments, "-o", tmp_path / "b")
        assert outcome.code == code
        assert message in outcome.err
        assert not compiled
        assert not (tmp_path / "b").exists()

    def test_needs_a_place_for_the_bundle(self, cli, compiled):
        outcome = cli("compile", "parc_convnext_xt")
        assert (outcome.code, bool(compiled)) == (2, False)
        assert "Add -o DIR" in outcome.err

    @pytest.mark.torch
    def test_takes_a_function_that_returns_a_module(self, cli, compiled, tmp_path, monkeypatch):
        (tmp_path / "my_nets.py").write_text(
            "import torch\ndef tiny():\n    return torch.nn.ReLU()\ndef wrong():\n    return 3\n"
        )
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        options = ("--input-shape", "1x4", "-o", tmp_path / "b")
        assert cli("compile", "my_nets:tiny", *options).code == 0
        assert type(compiled["model"]).__name__ == "ReLU"
        assert not compiled["model"].training
        assert compiled["name"] == "tiny"
        outcome = cli("compile", "my_nets:wrong", *options)
        assert outcome.code == 2
        assert "returned a int; an nn.Module is needed" in outcome.err

    def test_dry_run_analyses_and_writes_nothing(self, cli, compiled, monkeypatch, tmp_path):
        monkeypatch.setattr(build, "analyze", fake_analysis)
        outcome = cli("compile", "parc_convnext_xt", "--dry-run", "-o", tmp_path / "b")
        assert outcome.code == 0
        assert "stages.2.0.parc" in outcome.out
        assert not compiled
        assert not (tmp_path / "b").exists()


def fake_analysis(model, *, target, **options):
    """An analysis of two kernel calls, one of them a ParC."""
    rows = tuple(
        build.AnalysisRow(
            name=name,
            ops=ops,
            rule=rule,
            note=note,
            macs=1_000_000,
            bytes=4096,
            shape=(1, 14, 14, 96),
            refusals=("parc: no such axis",),
        )
        for name, ops, rule, note in (
            ("stages.2.0.parc", "parc.concat", "parc", "14x1: 2.1 times fewer operations"),
            ("stages.2.0.pwconv1", "matmul.add.gelu", "matmul", "tile 6x64"),
        )
    )
    return build.Analysis(
        model=model,
        weights="untrained: filled from seed 1",
        device=load_device(target),
        inputs=((1, 3, 224, 224),),
        outputs=((1, 1000),),
        rows=rows,
        near_misses=(),
    )


class TestAnalyze:
    def test_shows_sites_with_plans_and_sums(self, cli, monkeypatch):
        monkeypatch.setattr(build, "analyze", fake_analysis)
        outcome = cli("analyze", "parc_convnext_xt", "--target", "cortex-a53")
        assert outcome.code == 0
        assert "2 kernel calls, 1 ParC sites, 2.0 million MACs" in outcome.out
        assert "14x1: 2.1 times fewer operations" in outcome.out
        assert "untrained: filled from seed 1" in outcome.out
        assert "no such axis" not in outcome.out

    def test_several_shapes_are_shown_one_after_the_other(self, cli, monkeypatch):
        seen = []

        def analysis(model, *, input_shape, **options):
            seen.append(input_shape)
            return fake_analysis(model, **options)

        monkeypatch.setattr(build, "analyze", analysis)
        shapes = ("--input-shape", "1x3x64x64", "--input-shape", "1x3x96x64")
        data = cli("compile", "parc_convnext_xt", *shapes, "--dry-run", "--json").json
        assert [each["macs"] for each in data] == [2_000_000] * 2
        assert seen == [(1, 3, 64, 64), (1, 3, 96, 64)]
        assert cli("analyze", "parc_convnext_xt", *shapes).out.count("2 kernel calls") == 2

    def test_verbose_says_why(self, cli, monkeypatch):
        monkeypatch.setattr(build, "analyze", fake_analysis)
        assert "tile 6x64" not in cli("analyze", "parc_convnext_xt").out
        assert "tile 6x64" in cli("-v", "analyze", "parc_convnext_xt").out
        assert "no such axis" in cli("-vv", "analyze", "parc_convnext_xt").out

    def test_json_has_every_row(self, cli, monkeypatch):
        monkeypatch.setattr(build, "analyze", fake_analysis)
        data = cli("analyze", "parc_convnext_xt", "--json").json
        assert [row["name"] for row in data["rows"]] == ["stages.2.0.parc", "stages.2.0.pwconv1"]
        assert [row["name"] for row in data["parc_sites"]] == ["stages.2.0.parc"]
        assert data["macs"] == 2_000_000


class TestRun:
    @pytest.fixture
    def x(self, tmp_path):
        path = tmp_path / "x.npy"
        np.save(path, np.arange(48, dtype=np.float32).reshape(1, 3, 4, 4))
        return path

    def test_writes_what_the_bundle_computes(self, cli, fake_bundle, tmp_path, x):
        y = tmp_path / "y.npy"
        outcome = cli("run", "b", "--input", x, "-o", y, "--json")
        assert outcome.code == 0, outcome.err
        np.testing.assert_array_equal(np.load(y), 2 * np.load(x))
        assert outcome.json["outputs"][0]["argmax"] == [47]
        assert sorted(p.name for p in tmp_path.iterdir()) == ["x.npy", "y.npy"]

    def test_takes_every_shape_of_the_bundle(self, cli, fake_bundle, tmp_path, x):
        other = np.ones((1, 3, 2, 6), np.float32)
        np.save(x, other)
        y = tmp_path / "y.npy"
        assert cli("run", "b", "-i", x, "-o", y).code == 0
        np.testing.assert_array_equal(np.load(y), 2 * other)

    def test_shapes_that_do_not_go_together_are_refused(self, tmp_path):
        from parc_hw.cli.arrays import load_inputs
        from parc_hw.errors import InputError

        files = [tmp_path / "a.npy", tmp_path / "b.npy"]
        for file, size in zip(files, (2, 3), strict=True):
            np.save(file, np.zeros(size, np.float32))
        accepted = [[(2,), (2,)], [(3,), (3,)]]
        with pytest.raises(
            InputError, match="have shapes 2, 3; the bundle takes together 2, 2; or"
        ):
            load_inputs(files, accepted)
        assert [a.size for a in load_inputs([files[1]] * 2, accepted)] == [3, 3]

    def test_without_o_it_only_reports(self, cli, fake_bundle, x):
        outcome = cli("run", "b", "-i", x)
        assert outcome.code == 0
        assert "largest at 47" in outcome.out

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda p: None, "cannot read"),
            (lambda p: p.write_bytes(b""), "not a complete .npy file"),
            (lambda p: p.write_bytes(b"PK\x03\x04 not an array"), "not a complete .npy file"),
            (lambda p: _truncate(p, 100), "not a complete .npy file"),
            (lambda p: _truncate(p, 20), "not a complete .npy file"),
            (lambda p: p.write_bytes(_saved(p) + b"x"), "bytes after its array"),
            (lambda p: np.save(p, np.zeros((1, 3, 4, 4))), "holds float64; float32 is accepted"),
            (
                lambda p: np.save(p, np.zeros((3, 4, 4), "f4")),
                "has shape 3x4x4, .* 1x3x4x4 or 1x3x2x6",
            ),
            (lambda p: np.save(p, np.array({"a": 1}), allow_pickle=True), "not a complete"),
            (lambda p: np.save(p, _with(np.nan)), "NaN or infinite, the first at index .0, 1, 2"),
            (lambda p: np.save(p, _with(np.inf)), "NaN or infinite"),
        ],
    )
    def test_refuses_bad_arrays(self, cli, fake_bundle, tmp_path, make, message):
        import re

        path = tmp_path / "bad.npy"
        make(path)
        outcome = cli("run", "b", "-i", path, "-o", tmp_path / "y.npy")
        assert outcome.code == 2
        assert re.search(message, outcome.err), outcome.err
        assert not (tmp_path / "y.npy").exists()

    def test_counts_inputs_and_outputs(self, cli, fake_bundle, tmp_path, x):
        assert "--input was given 2 times" in cli("run", "b", "-i", x, "-i", x).err
        y = tmp_path / "y.npy"
        assert "-o was given 2 times" in cli("run", "b", "-i", x, "-o", y, "-o", y).err

    def test_a_directory_that_is_missing_is_named(self, cli, fake_bundle, tmp_path, x):
        outcome = cli("run", "b", "-i", x, "-o", tmp_path / "none" / "y.npy")
        assert outcome.code == 2
        assert "No such file or directory" in outcome.err

    def test_no_space_leaves_nothing_behind(self, cli, fake_bundle, tmp_path, x, monkeypatch):
        def full(*arguments):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fdopen", full)
        outcome = cli("run", "b", "-i", x, "-o", tmp_path / "y.npy")
        assert outcome.code == 2
        assert "No space left on device" in outcome.err
        assert [p.name for p in tmp_path.iterdir()] == ["x.npy"]


def _saved(path):
    np.save(path, np.zeros((1, 3, 4, 4), np.float32))
    return path.read_bytes()


def _truncate(path, size):
    path.write_bytes(_saved(path)[:size])


def _with(value):
    array = np.zeros((1, 3, 4, 4), np.float32)
    array[0, 1, 2, 3] = value
    return array


class TestVerify:
    @pytest.fixture
    def report(self, monkeypatch, fake_bundle):
        def use(max_abs, first=None):
            row = VerifyRow(vector=0, input="1x3x4x4", output="y", max_abs=max_abs, std=2.0)
            result = VerifyReport(rows=(row,), first_diverging=first)
            monkeypatch.setattr("parc_hw.artifact.verify_bundle", lambda b: result, raising=False)

        return use

    def test_passes_with_0(self, cli, report):
        report(1e-3)
        outcome = cli("verify", "b", "--json")
        assert outcome.code == 0
        assert outcome.json["passed"] is True
        assert outcome.json["worst"] == 0.5e-3

    def test_misses_with_4_and_names_the_first_layer(self, cli, report):
        report(0.1, "stages.1.0.norm")
        outcome = cli("verify", "b")
        assert outcome.code == 4
        assert "MISSED" in outcome.out
        assert "does not compute what its source computed: worst error 0.05" in outcome.err
        assert "the first layer that differs is stages.1.0.norm" in outcome.err

    def test_an_error_that_is_not_finite_is_still_json(self, cli, report):
        report(float("inf"))
        outcome = cli("verify", "b", "--json")
        assert outcome.code == 4
        assert outcome.json["worst"] is None


class TestTrain:
    def test_trains_into_a_file(self, cli, monkeypatch, tmp_path):
        from parc_hw import models

        def train(name, *, output, seed, epochs, progress):
            progress("train", 1, 1, "accuracy 0.9")
            output.write_bytes(b"weights")
            return f"{name} {seed} {epochs}"

        monkeypatch.setattr(models, "train", train, raising=False)
        file = tmp_path / "w.safetensors"
        outcome = cli("train", "parc_canvas", "-o", file, "--epochs", "2", "--seed", "4")
        assert outcome.code == 0, outcome.err
        assert "parc_canvas 4 2" in outcome.out
        refused = cli("train", "parc_canvas", "-o", file)
        assert refused.code == 2
        assert "exists; --force replaces it" in refused.err

    def test_refuses_places_it_cannot_write(self, cli, tmp_path):
        assert "end the name so" in cli("train", "parc_canvas", "-o", tmp_path / "w.pt").err
        where = tmp_path / "none" / "w.safetensors"
        assert "is not a directory" in cli("train", "parc_canvas", "-o", where).err


class TestTargetsAndModels:
    def test_every_target_is_listed(self, cli):
        listed = [entry["target"] for entry in cli("targets", "--json").json]
        assert listed == device_names()

    @pytest.mark.parametrize("columns", ["80", "120"])
    def test_names_are_never_cut(self, cli, monkeypatch, columns):
        monkeypatch.setenv("COLUMNS", columns)
        out = cli("targets").out
        assert all(name in out for name in device_names())
        assert max(map(len, out.splitlines())) <= int(columns)
        assert "parc_convnext_xt" in cli("models").out

    def test_one_target_shows_a_source_for_its_numbers(self, cli):
        data = cli("targets", "rk3288", "--json").json
        assert data["l1d_bytes"] == 32768
        assert data["sources"]["l1d_bytes"]

    def test_one_model_says_what_its_input_must_look_like(self, cli):
        out = cli("models", "parc_convnext_xt").out
        assert "1x3x224x224" in out
        assert "RGB" in out
        assert "0.485 0.456 0.406" in out

    def test_an_unknown_model_names_the_nearest(self, cli):
        outcome = cli("models", "parc_convnext")
        assert outcome.code == 2
        assert "parc_convnext_xt" in outcome.err


class TestDoctor:
    def test_all_is_well_here(self, cli):
        checks = cli("doctor", "--json").json
        assert {check["state"] for check in checks} == {"ok"}, checks

    def test_a_missing_tool_comes_with_its_line(self, cli, monkeypatch, tmp_path):
        import importlib.util

        find_spec = importlib.util.find_spec
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name: None if name == "ziglang" else find_spec(name)
        )
        outcome = cli("doctor")
        assert outcome.code == 0  # numbers and analysis still work
        assert "sudo apt-get install -y gcc-aarch64-linux-gnu libc6-dev-arm64-cross" in outcome.out
        assert "sudo apt-get install -y qemu-user-static" in outcome.out

    def test_without_tvm_nothing_works(self, cli, monkeypatch):
        from parc_hw.cli import versions

        monkeypatch.setattr(versions, "_llvm_version", lambda: None)
        outcome = cli("doctor")
        assert outcome.code == 5
        assert "pip install --force-reinstall apache-tvm" in outcome.out
