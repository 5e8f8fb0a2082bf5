"""The command line on model files: analyze, export, and words for what cannot be read."""

import json

import pytest
import torch
from torch import nn

from parc_hw.cli.main import main

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


def test_a_model_leaves_and_is_analysed_as_a_file(tmp_path, capsys):
    path = str(tmp_path / "m.onnx")
    assert main(["--json", "export", "parc_canvas", "-o", path]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == "trained weights shipped with parc_hw"
    assert main(["--json", "analyze", path]) == 0
    seen = json.loads(capsys.readouterr().out)
    assert seen["model"] == "m.onnx"
    assert len(seen["parc_sites"]) == 5
    assert seen["near_misses"] == []


def test_analyze_says_why_something_is_no_parc(tmp_path, capsys):
    class Near(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, (6, 1), groups=4)

        def forward(self, x):
            return self.conv(torch.cat([x, x], 2))

    program = torch.export.export(Near().eval(), (torch.zeros(1, 4, 6, 5),))
    torch.export.save(program, tmp_path / "near.pt2")
    assert main(["analyze", str(tmp_path / "near.pt2")]) == 0
    shown = capsys.readouterr().out
    assert "no ParC" in shown
    assert "have 12 points; 11 = 2 * 6 - 1" in " ".join(shown.split())


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("none.onnx", None, "there is no file"),
        ("bad.onnx", b"nothing", "truncated, corrupt or not an ONNX file"),
        ("bad.pt2", b"nothing", "truncated, corrupt or not a .pt2 file"),
        ("w.pt", b"nothing", "holds weights, not a model"),
    ],
)
def test_files_that_are_no_models_are_refused(tmp_path, capsys, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    assert main(["analyze", str(path)]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "source, message",
    [
        ("raise RuntimeError('my own words')", "RuntimeError: my own words"),
        ("def make(:", "SyntaxError"),
        ("import no_such_module_x", "No module named 'no_such_module_x'"),
        ("def make():\n    return [][1]", "IndexError: list index out of range"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_module_that_fails_shows_its_own_error(tmp_path, monkeypatch, capsys, source, message):
    name = f"mine_{abs(hash(source))}"
    (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert main(["analyze", f"{name}:make", "--input-shape", "1x3x8x8"]) == 2
    assert message in capsys.readouterr().err


def test_export_asks_where_to(capsys):
    assert main(["export", "parc_canvas"]) == 2
    assert "Add -o FILE.onnx" in capsys.readouterr().err
