"""Exported files: ONNX Runtime computes the model's numbers, and what returns gets the same plan."""

import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from relax_vm import operators
from torch import nn

from parc_hw import build, models
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.importers import import_onnx, import_torch, reference_values
from parc_hw.importers.export import export_onnx
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

SHAPE = (1, 8, 6, 5)


def check_export(model, shape, path):
    """ONNX Runtime's numbers, and the same operators after the way there and back."""
    imported = import_torch(model.eval(), [shape])
    export_onnx(imported, path)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    outputs = session.run(None, {imported.inputs[0].name: x})
    wanted, _ = reference_values(imported, [x])
    assert [o.name for o in session.get_outputs()] == [t.name for t in imported.outputs]
    for seen, theirs in zip(outputs, wanted, strict=True):
        assert seen.shape == theirs.shape
        assert np.abs(seen - theirs).max() <= 1e-4 * theirs.std()
    again = import_onnx(path)
    assert (again.inputs, again.outputs) == (imported.inputs, imported.outputs)
    return imported, again


class Mixed(nn.Module):
    """ParC of all kinds and what stands around them in the papers' networks."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.SiLU())
        self.h, self.w = ParC(4, 9, "H"), ParC(4, 9, "W", bias=False)
        self.dense = ParC(8, 6, "H", out_channels=8, position_embedding=False)
        self.norm, self.up, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.gate = nn.Conv2d(8, 8, 1)

    def forward(self, x):
        x = self.stem(x)
        a, b = torch.split(x, 4, 1)
        y = self.dense(torch.cat([self.h(a), self.w(b)], 1)).permute(0, 2, 3, 1)
        y = self.down(F.gelu(self.up(self.norm(y)))).permute(0, 3, 1, 2)
        y = y * torch.sigmoid(self.gate(F.adaptive_avg_pool2d(y, 1)))
        return F.hardswish(x + y), y.mean((2, 3))


def test_a_network_of_all_parts_returns_as_it_left(tmp_path):
    imported, again = check_export(Mixed(), SHAPE, tmp_path / "m.onnx")
    assert operators(again.module) == operators(imported.module)
    assert operators(again.module)["parc"] == 3


class Rest(nn.Module):
    def __init__(self):
        super().__init__()
        self.group = nn.GroupNorm(2, 8)

    def forward(self, x):
        y = F.max_pool2d(self.group(x), 2, ceil_mode=True)
        y = F.avg_pool2d(F.pad(y, (1, 0, 1, 1), value=0.5), 2, 1)
        y = F.interpolate(y, (6, 5), mode="bilinear", align_corners=False)
        z = F.pad(F.relu6(x), (1, 2, 0, 1), mode="reflect")[:, :, 1::2, :-1]
        z = torch.softmax(z.flatten(2) @ z.flatten(2).transpose(1, 2), -1)
        return F.leaky_relu(y).clamp(-1, 1), z.unsqueeze(1).squeeze(0) * z.abs().sqrt()


def test_other_operators_leave_with_the_right_numbers(tmp_path):
    check_export(Rest(), SHAPE, tmp_path / "m.onnx")


@pytest.mark.parametrize("name", ["parc_canvas", "conv_canvas"])
def test_a_model_of_the_zoo_gets_the_same_plan_after_its_return(tmp_path, name):
    model, _ = models.prepare(name)
    check_export(model, models.info(name).input_shape, tmp_path / "m.onnx")
    before, after = build.analyze(name), build.analyze(tmp_path / "m.onnx")
    assert [(r.ops, r.rule, r.note, r.shape) for r in after.rows] == [
        (r.ops, r.rule, r.note, r.shape) for r in before.rows
    ]
    assert [row.name for row in after.rows if "parc" in row.ops] == [
        row.name for row in before.rows if "parc" in row.ops
    ]
    assert after.near_misses == ()


def test_a_file_compiles_and_verifies(tmp_path):
    export_onnx(import_torch(Mixed().eval(), [SHAPE]), tmp_path / "m.onnx")
    bundle = build.compile(tmp_path / "m.onnx", output=tmp_path / "b")
    assert bundle.manifest["name"] == "m"
    assert bundle.manifest["source"]["weights"] == "weights of m.onnx"
    assert bundle.manifest["verification"]["worst"] <= 1e-3


def test_weights_and_files_do_not_mix(tmp_path):
    export_onnx(import_torch(Mixed().eval(), [SHAPE]), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"m\.onnx holds its weights; leave out the file"):
        build.analyze(tmp_path / "m.onnx", weights="w.pt")


def test_operators_without_a_form_are_listed(tmp_path):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.cumsum(x, 1) + torch.sin(x)

    imported = import_torch(Odd(), [SHAPE])
    with pytest.raises(UnsupportedError) as caught:
        export_onnx(imported, tmp_path / "m.onnx")
    assert "\n  cumsum at the top level" in str(caught.value)
    assert "\n  sin at the top level" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_bad_paths_are_refused(tmp_path):
    imported = import_torch(nn.ReLU(), [SHAPE])
    with pytest.raises(InputError, match=r"m\.pb must end with \.onnx"):
        export_onnx(imported, tmp_path / "m.pb")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        export_onnx(imported, tmp_path / "file" / "m.onnx")
