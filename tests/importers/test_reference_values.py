"""The source model's values, by the names that imported variables carry."""

import numpy as np
import pytest
import torch
from torch import nn

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.importers import import_torch, reference_values
from parc_hw.models.convnext import ConvNeXt
from parc_hw.models.fill import fill_model

pytestmark = [pytest.mark.tvm, pytest.mark.torch]


@pytest.fixture(scope="module")
def small():
    model = ConvNeXt(
        dims=(4, 8, 12, 16), depths=(1, 1, 2, 1), parc_from=(1, 1, 1, 0), resolution=64, classes=5
    ).eval()
    fill_model(model, 1)
    return model, import_torch(model, [(2, 3, 64, 64)])


def test_outputs_are_the_models(small):
    model, imported = small
    x = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    outputs, values = reference_values(imported, [x])
    with torch.no_grad():
        wanted = model(torch.from_numpy(x)).numpy()
    assert values == {}
    (output,) = outputs
    assert output.dtype == np.float32
    # The exported program is not bound to torch's fused paths.
    assert np.abs(output - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_values_are_those_of_the_modules_in_nchw(small):
    model, imported = small
    x = np.random.default_rng(1).standard_normal((2, 3, 64, 64)).astype(np.float32)
    path = "stages.2.1.gcc_H"
    seen = {}
    handle = model.get_submodule(path).register_forward_hook(
        lambda module, inputs, output: seen.update(y=output.numpy())
    )
    with torch.no_grad():
        model(torch.from_numpy(x))
    handle.remove()
    (node,) = {
        source.node
        for source in imported.sources.values()
        if source.module_path == path and source.node
    }
    _, values = reference_values(imported, [x], [node])
    assert set(values) == {node}
    assert values[node].flags.c_contiguous
    assert values[node].shape == (2, 6, 4, 4)
    assert np.abs(values[node] - seen["y"]).max() <= 1e-5 * np.abs(seen["y"]).max()


def test_every_source_node_has_a_value_of_its_variables_shape(small):
    from parc_hw.lower import _tvm

    _, imported = small
    x = np.zeros((2, 3, 64, 64), np.float32)
    nodes = {source.node for source in imported.sources.values() if source.node}
    _, values = reference_values(imported, [x], nodes)
    for var, source in imported.sources.items():
        if source.node in values:
            assert values[source.node].shape == _tvm.static_shape(var), source
    # All but those whose value is a tuple.
    assert all(node.startswith("split") for node in nodes - set(values))


def test_inputs_of_other_shapes_are_refused(small):
    _, imported = small
    with pytest.raises(
        InputError, match=r"imported for inputs of shapes \[\(2, 3, 64, 64\)\], not"
    ):
        reference_values(imported, [np.zeros((1, 3, 64, 64))])
    with pytest.raises(InputError, match=r"not \[\]"):
        reference_values(imported, [])


def test_buffers_that_are_not_stored_are_found():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("scale", torch.full((3,), 2.0), persistent=False)
            self.shift = torch.ones(3)

        def forward(self, x):
            return x * self.scale + self.shift

    imported = import_torch(Net(), [(2, 3)])
    outputs, _ = reference_values(imported, [np.ones((2, 3), np.float32)])
    np.testing.assert_array_equal(outputs[0], np.full((2, 3), 3.0))


@pytest.mark.parametrize("name", ["parc_convnext_xt", "convnext_xt"])
def test_the_papers_models_are_imported_whole(name):
    from relax_vm import operators

    imported = import_torch(models.create(name), [models.info(name).input_shape])
    found = operators(imported.module)
    parcs = 8 if name == "parc_convnext_xt" else 0  # two for each of four blocks
    assert found["parc"] == parcs
    assert found["nn.conv2d"] == 4 + 18 - parcs // 2
    assert found["matmul"] == 2 * 18 + 1
    assert found["nn.layer_norm"] == 4 + 18 + 1
    assert "reshape" not in found
    assert "strided_slice" not in found
