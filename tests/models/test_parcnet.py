"""ParC-Net and its block, against the authors' public code and against the equations."""

import numpy as np
import pytest
import torch
from goldens import VECTORS, assert_close, assert_golden, assert_official_keys, official_input

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models import parcnet
from parc_hw.models.fill import fill_model, image, sample
from parc_hw.models.parcnet import ParCBlock, ParCNet

pytestmark = pytest.mark.torch

# The label of the vectors, the model, its options, the resolutions.
CASES = [
    ("parcnet_s", "parcnet_s", {}, (224, 256, 320)),
    ("parcnet_s_crop", "parcnet_s", {"instance_kernel": "crop"}, (224,)),
    ("parcnet_s_noca", "parcnet_s", {"kernel": "gcc"}, (256,)),
    ("parcnet_s_add", "parcnet_s", {"fusion": "add"}, (256,)),
    ("parcnet_xs", "parcnet_xs", {}, (256,)),
    pytest.param("parcnet_h", "parcnet_h", {}, (256,), marks=pytest.mark.slow),
]
BLOCK = np.load(VECTORS.parent / "operator" / "golden_op_gcc_mf_block.npz")
TINY = parcnet.Scale(
    3,
    (8, 8, 8),
    tuple(parcnet.Level(8, 32, blocks, length) for blocks, length in ((1, 8), (2, 4), (1, 2))),
)


def tiny(**options):
    return ParCNet(TINY, classes=5, **options).eval()


@pytest.mark.parametrize("label, name, options, resolutions", CASES)
def test_keys_outputs_and_activations_are_those_of_the_authors_code(
    label, name, options, resolutions
):
    model = models.create(name, **options)
    assert_official_keys(model, label)
    for resolution in resolutions:
        assert len(assert_golden(model, label, resolution)) >= 3


@pytest.mark.parametrize("name", ["parcnet_s", "parcnet_xs", "parcnet_h"])
def test_stated_parameters_are_official(name):
    known = models.info(name)
    assert known.parameters == known.official_parameters


def test_macs_at_other_sizes_are_those_of_the_table():
    # To the 0.1 MMAC printed for the authors' code.
    for resolution, macs in ((224, 1.2658e9), (320, 2.6027e9)):
        counted = models.count_macs(models.create("parcnet_s"), (1, 3, resolution, resolution))
        assert abs(counted - macs) <= 0.00005e9


@pytest.mark.parametrize("resolution", [224, 320])
def test_resized_kernels_and_results_of_the_first_block_are_official(resolution, monkeypatch):
    # 224 and 320 shrink and stretch the kernels stored for 256.
    golden = np.load(VECTORS / f"golden_parcnet_s_{resolution}.npz")
    model, _ = models.prepare("parcnet_s")
    seen = []
    correlate = parcnet.circular_correlate

    def recording(x, weight, bias, pe, *, axis):
        y = correlate(x, weight, bias, pe, axis=axis)
        seen.append((weight.numpy(), y.numpy()))
        return y

    monkeypatch.setattr(parcnet, "circular_correlate", recording)
    with torch.no_grad():
        model(official_input(resolution))
    # Ours: first half H, W, second half W, H. Theirs: the first ParC of each half, then the second.
    for ours, theirs in zip((0, 2, 1, 3), range(4), strict=True):
        kernel, result = seen[ours]
        assert_close(sample(kernel), golden[f"act:oned_conv_{theirs}.kernel"], "kernel")
        assert_close(sample(result), golden[f"act:oned_conv_{theirs}.out"], "result")


@pytest.mark.parametrize("case", sorted({name.partition(":")[0] for name in BLOCK.files}))
def test_the_block_is_the_official_one_for_every_pair_of_lengths(case):
    length, size = (int(text) for text in case[1:].split("_S"))
    block = ParCBlock(4, length, 8, bias=True, position_embedding=True, attention=False).eval()
    fill_model(block, models.DEFAULT_SEED)
    x = torch.from_numpy(image((1, 8, size, size), models.DEFAULT_SEED))
    with torch.no_grad():
        assert_close(block(x).numpy(), BLOCK[f"{case}:y"], "y")
        for place in ("1_H", "1_W", "2_H", "2_W"):
            for kind in ("kernel", "pe"):
                ours = block._resized(kind, place, x)
                assert_close(ours.numpy(), BLOCK[f"{case}:inst_{kind}_{place}"], f"{kind} {place}")


def test_a_rectangle_resizes_each_kernel_to_its_own_axis():
    height, width = 6, 10
    block = ParCBlock(8, 4, 8, bias=True, position_embedding=True).double().eval()
    fill_model(block, 7)
    x = torch.randn(2, 16, height, width, dtype=torch.float64)

    def resized(kind, place):
        stored = getattr(block, f"meta_{kind}_{place}").reshape(8, 4)
        points = torch.linspace(0, 3, height if place[-1] == "H" else width, dtype=torch.float64)
        low = points.floor().clamp(max=2).long()
        return stored[:, low] + (points - low) * (stored[:, low + 1] - stored[:, low])

    def spread(lines, place):
        return lines[:, :, None] if place[-1] == "H" else lines[:, None, :]

    def circular(v, place):
        # Equation 2, one tap after another.
        dim = 2 if place[-1] == "H" else 3
        kernel = resized("kernel", place)
        bias = getattr(block, f"meta_{place}_bias")[:, None, None]
        taps = (kernel[:, k, None, None] * v.roll(-k, dim) for k in range(kernel.shape[1]))
        return sum(taps) + bias

    halves = []
    for half, norm, first, second in (
        (x[:, :8], block.pre_Norm_1, "1_H", "2_W"),
        (x[:, 8:], block.pre_Norm_2, "1_W", "2_H"),
    ):
        y = circular(norm(half + spread(resized("pe", first), first)), first)
        halves.append(half + circular(y + spread(resized("pe", second), second), second))
    joined = torch.cat(halves, dim=1)
    wanted = joined + block.ca(block.ffn(joined))
    # Float64 throughout: sums of at most 20 terms of size 1.
    torch.testing.assert_close(block(x), wanted, rtol=0, atol=1e-12)


def test_any_rectangle_is_taken_down_to_one_pixel():
    model = tiny()
    for shape in ((2, 3, 64, 96), (1, 3, 33, 7), (1, 3, 1, 1)):
        y = model(torch.randn(shape))
        assert y.shape == (shape[0], 5)
        assert torch.isfinite(y).all()


def test_crop_takes_no_axis_longer_than_the_stored_kernel():
    model = tiny(resize="crop")
    assert model(torch.randn(1, 3, 64, 40)).shape == (1, 5)
    with pytest.raises(InputError, match="more than the 8 stored taps: resize='crop' accepts"):
        model(torch.randn(1, 3, 72, 64))


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 1, 64, 64), (1, 3, 0, 64)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"takes inputs of shape \(B, 3, H, W\), not \("):
        tiny()(torch.zeros(shape))


@pytest.mark.parametrize(
    "option, value", [("fusion", "sum"), ("kernel", "gcc_dk"), ("instance_kernel", "bilinear")]
)
def test_an_unknown_word_for_an_option_is_refused_with_the_known_ones(option, value):
    with pytest.raises(InputError, match=f"option {option} of parcnet_s .* must be one of"):
        models.create("parcnet_s", **{option: value})


def test_checkpoints_of_the_authors_hold_one_block_twice():
    source = models.create("parcnet_xs", classes=3)
    fill_model(source, 11)
    state = source.state_dict()
    block = "layer_5.0."
    twin = {f"residual.{k.removeprefix(block)}": v for k, v in state.items() if k.startswith(block)}
    assert len(twin) == 18

    def loaded(checkpoint):
        model = models.create("parcnet_xs", classes=3)
        models.load_official(model, checkpoint)
        return model.state_dict()

    without = {key: value for key, value in state.items() if not key.startswith(block)}
    contrary = {key: torch.zeros_like(value) for key, value in twin.items()}
    for checkpoint in ({**state, **twin}, {**without, **twin}, {**state, **contrary}):
        result = loaded(checkpoint)
        for key, value in state.items():
            assert torch.equal(result[key], value), key


def test_gradients_reach_every_parameter():
    model = tiny().train()
    model(torch.randn(4, 3, 64, 64)).square().sum().backward()
    for key, value in model.named_parameters():
        assert value.grad is not None, key
        assert value.grad.abs().sum() > 0, key


def test_export_keeps_each_parc_as_one_node_with_the_same_result():
    model = tiny()
    fill_model(model, 3)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        exported = torch.export.export(model, (x,))
        # The same arithmetic in the same order.
        torch.testing.assert_close(exported.module()(x), model(x), rtol=0, atol=0)
    nodes = [n for n in exported.graph.nodes if n.target is torch.ops.parc_hw.parc.default]
    assert len(nodes) == 4 * (1 + 2 + 1)


@pytest.mark.tvm
def test_import_keeps_each_parc_as_one_operator_and_resizes_no_kernel():
    from tvm import relax

    from parc_hw.importers import import_torch

    found = []

    def visit(node):
        if isinstance(node, relax.Call):
            found.append(node.op.name)

    relax.analysis.post_order_visit(import_torch(tiny(), [(1, 3, 64, 96)]).module["main"], visit)
    assert found.count("relax.parc") == 4 * (1 + 2 + 1)
    assert "relax.image.resize2d" not in found
