"""Does one bundle of several input shapes compute what PyTorch computes at each of them?"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from parc_hw import models
from parc_hw.artifact import TOLERANCE, Bundle, verify_bundle
from parc_hw.build import analyze, compile
from parc_hw.errors import InputError
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

SHAPES = [(1, 3, 12, 10), (1, 3, 14, 7), (2, 3, 9, 16)]
TARGETS = [
    "host",
    pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


class Net(nn.Module):
    """Convolutions and a ParC along each axis whose kernels are resized to the input."""

    def __init__(self, channels=24):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.h = ParC(channels, 12, "H", resize="bilinear")
        self.w = ParC(channels, 10, "W", resize="bicubic")
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.head = nn.Linear(2 * channels, 7)

    def forward(self, x):
        y = self.w(F.relu(self.h(self.stem(x))))
        y = F.gelu(self.conv(y))
        return self.head(y.mean((2, 3))), y


@pytest.fixture(scope="module")
def network():
    generator = torch.Generator().manual_seed(5)
    network = Net()
    for tensor in network.state_dict().values():
        tensor.copy_(0.4 * torch.rand(tensor.shape, generator=generator) - 0.1)
    return network.eval()


def outputs(network, x):
    with torch.no_grad():
        results = network(torch.from_numpy(x))
    results = results if isinstance(results, tuple) else (results,)
    return [y.numpy() for y in results]


def inputs(shapes, seed=3):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.fixture(scope="module")
def bundle(network, tmp_path_factory):
    output = tmp_path_factory.mktemp("shapes") / "net"
    return compile(network, input_shape=SHAPES, output=output, name="net")


def weights_bytes(bundle):
    return bundle.manifest["weights"]["bytes"]


@pytest.mark.parametrize("target", TARGETS)
def test_every_shape_gives_pytorchs_numbers(target, network, tmp_path):
    bundle = compile(
        network, input_shape=SHAPES, output=tmp_path / "net", name="net", target=target
    )
    for x in (*inputs(SHAPES), *inputs(reversed(SHAPES), seed=4)):
        for got, expected in zip(bundle.run(x), outputs(network, x), strict=True):
            assert got.shape == expected.shape
            # float32 sums of at most 3 * 3 * 24 products in another order than PyTorch's
            assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_shape_gives_the_bits_of_a_bundle_of_its_own(bundle, network, tmp_path):
    for number, (shape, x) in enumerate(zip(SHAPES, inputs(SHAPES), strict=True)):
        alone = compile(network, input_shape=shape, output=tmp_path / str(number), name="net")
        for got, expected in zip(bundle.run(x), alone.run(x), strict=True):
            assert got.tobytes() == expected.tobytes()


def test_verification_covers_every_shape(bundle):
    rows = verify_bundle(bundle).rows
    assert {row.input for row in rows} == {"1x3x12x10", "1x3x14x7", "2x3x9x16"}
    assert bundle.manifest["verification"]["vectors"] == sum(
        entry["vectors"] for entry in bundle.manifest["shapes"]
    )


def test_weights_that_do_not_depend_on_the_shape_are_stored_once(bundle, network, tmp_path):
    alone = [
        weights_bytes(
            compile(network, input_shape=shape, output=tmp_path / str(number), name="net")
        )
        for number, shape in enumerate(SHAPES)
    ]
    # Per shape: kernel, bias and embedding of two ParCs, 24 channels of at most 16 taps, and the
    # gaps that align them to 64 bytes.
    baked = 2 * 4 * (24 * 16 + 24 + 24 * 16) + 6 * 64
    assert weights_bytes(bundle) <= max(alone) + 2 * baked
    assert weights_bytes(bundle) < 0.6 * sum(alone)


def test_kernels_that_do_not_depend_on_the_shape_are_compiled_once(bundle):
    head = [
        next(layer["kernel"] for layer in entry["layers"] if layer["name"] == "head")
        for entry in bundle.manifest["shapes"]
    ]
    assert head[0] == head[1]  # of batch 1
    calls = sum(kernel["calls"] for kernel in bundle.manifest["kernels"])
    assert calls == sum(len(entry["layers"]) for entry in bundle.manifest["shapes"])
    assert len(bundle.manifest["kernels"]) < calls


def test_an_unknown_shape_is_refused_with_the_accepted_ones(bundle):
    with pytest.raises(
        InputError,
        match=r"\(1, 3, 12, 12\); accepted is \(1, 3, 12, 10\) or \(1, 3, 14, 7\) or \(2, 3, 9, 16\)",
    ):
        bundle.run(*inputs([(1, 3, 12, 12)]))


def test_equal_compilations_are_byte_identical_and_the_order_is_kept(network, tmp_path):
    files = []
    for directory in ("one", "two"):
        root = tmp_path / directory
        compile(network, input_shape=SHAPES[:2], output=root, name="net")
        files.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert files[0] == files[1]
    assert [shape.text for shape in Bundle.open(root).shapes] == ["1x3x12x10", "1x3x14x7"]


def test_a_list_of_one_shape_is_that_shape(network, tmp_path):
    files = []
    for directory, shape in (("one", SHAPES[0]), ("two", [list(SHAPES[0])])):
        root = tmp_path / directory
        compile(network, input_shape=shape, output=root, name="net", verify=False)
        files.append({p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()})
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (
            [SHAPES[0], SHAPES[1], SHAPES[0]],
            r"\(1, 3, 12, 10\) is given twice; give each only once",
        ),
        ([SHAPES[0], (1, 3, 0, 8)], r"\(1, 3, 0, 8\) is not acceptable"),
        (
            [SHAPES[0], 8],
            r"input shape 8 is not acceptable: it is a sequence of whole numbers such as",
        ),
        ([[]], r"\[\] is not acceptable"),
        ([], r"\[\] is not acceptable"),
        ("1x3x8x8", r"'1x3x8x8' is not acceptable"),
        (12, "12 is not acceptable"),
        ([SHAPES[0], (1, 4, 8, 8)], r"inputs of shape \(1, 4, 8, 8\)"),
    ],
)
def test_a_bad_list_of_shapes_is_refused(network, tmp_path, shapes, message):
    with pytest.raises(InputError, match=message):
        compile(network, input_shape=shapes, output=tmp_path / "net", name="net")
    assert list(tmp_path.iterdir()) == []


def test_one_shape_at_a_time_is_analysed(network):
    with pytest.raises(InputError, match="2 input shapes were given; give one at a time"):
        analyze(network, input_shape=SHAPES[:2])
    assert analyze(network, input_shape=[SHAPES[1]]).inputs == (SHAPES[1],)


def test_stages_of_all_shapes_are_kept_on_request(network, tmp_path):
    root = tmp_path / "net"
    dump = ("relax", "tir")
    compile(network, input_shape=SHAPES[:2], output=root, name="net", verify=False, dump=dump)
    assert (root / "dump" / "relax.py").read_text().count("def main(") == 2


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_convnext_xt_for_two_sizes(target, tmp_path):
    shapes = [(1, 3, 64, 64), (1, 3, 96, 64)]
    network, _ = models.prepare("convnext_xt")
    bundle = compile(
        "convnext_xt", input_shape=shapes, output=tmp_path / "xt", name="xt", target=target
    )
    for x in inputs(shapes):
        (expected,) = outputs(network, x)
        assert np.abs(bundle.run(x) - expected).max() <= TOLERANCE * expected.std()
    parameters = sum(p.numel() for p in network.parameters())
    assert weights_bytes(bundle) < 1.05 * 4 * parameters
