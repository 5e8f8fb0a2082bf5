"""ONNX files: which operators are read, what is asked for, and what is refused in which words."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from relax_vm import operators, run_vm
from spelled import SHAPE, numbers, onnx_parc, write_onnx

from parc_hw.errors import InputError, UnsupportedError
from parc_hw.importers import import_model, import_onnx, reference_values

pytestmark = [pytest.mark.tvm]


def check_numbers(imported, depth=200):
    """TVM's results against ONNX's own reference evaluator, `depth` roundings apart."""
    rng = np.random.default_rng(3)
    inputs = [rng.standard_normal(t.shape).astype(np.float32) for t in imported.inputs]
    wanted, _ = reference_values(imported, inputs)
    seen = run_vm(imported.module, *inputs)
    assert [a.shape for a in seen] == [t.shape for t in imported.outputs]
    for ours, theirs in zip(seen, wanted, strict=True):
        assert ours.shape == theirs.shape
        limit = depth * 2.0**-24 * max(1.0, float(np.abs(theirs).max()))
        assert np.abs(ours - theirs).max() <= limit


RNG = np.random.default_rng(0)


def floats(*shape):
    return RNG.uniform(0.5, 1.5, shape).astype(np.float32)


ONE = np.array(0.7, np.float32)
# Each line is one small chain that makes y from x; several operators share a compilation.
CHAINS = {
    "element by element": (
        [
            ("Abs", ["x"], ["a"], {}),
            ("Add", ["a", "c"], ["b"], {}),
            ("Sqrt", ["b"], ["d"], {}),
            ("Log", ["d"], ["e"], {}),
            ("Exp", ["e"], ["f"], {}),
            ("Erf", ["f"], ["g"], {}),
            ("Tanh", ["g"], ["h"], {}),
            ("Neg", ["h"], ["i"], {}),
            ("Reciprocal", ["d"], ["j"], {}),
            ("Pow", ["d", "c"], ["k"], {}),
            ("Div", ["i", "k"], ["l"], {}),
            ("Sub", ["l", "j"], ["y"], {}),
        ],
        {"c": ONE},
    ),
    "gates": (
        [
            ("HardSigmoid", ["x"], ["a"], {"alpha": 0.3}),
            ("HardSwish", ["a"], ["b"], {}),
            ("LeakyRelu", ["x"], ["m"], {}),
            ("PRelu", ["x", "s"], ["d"], {}),
            ("Gelu", ["x"], ["e"], {}),
            ("Gelu", ["x"], ["f"], {"approximate": "tanh"}),
            ("Clip", ["x", "l"], ["g"], {}),
            ("Clip", ["x", "l", "c"], ["h"], {}),
            ("Max", ["b", "c", "d", "m"], ["i"], {}),
            ("Min", ["e", "f", "g", "h"], ["j"], {}),
            ("Softmax", ["i"], ["k"], {"axis": 1}),
            ("Mul", ["k", "j"], ["y"], {}),
        ],
        {"s": floats(4, 1, 1), "c": ONE, "l": np.array(-0.2, np.float32)},
    ),
    "norms": (
        [
            ("BatchNormalization", ["x", "p", "q", "p", "q"], ["a"], {}),
            ("LayerNormalization", ["a", "w", "v"], ["b"], {}),
            ("GroupNormalization", ["b", "p", "q"], ["c"], {"num_groups": 2}),
            ("InstanceNormalization", ["c", "p", "q"], ["y"], {}),
        ],
        {"p": floats(4), "q": floats(4), "w": floats(5), "v": floats(5)},
    ),
    "pools": (
        [
            ("MaxPool", ["x"], ["a"], {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1]}),
            ("AveragePool", ["a"], ["b"], {"kernel_shape": [2, 2], "pads": [0, 1, 1, 0]}),
            ("GlobalAveragePool", ["b"], ["c"], {}),
            ("GlobalMaxPool", ["b"], ["d"], {}),
            ("Concat", ["c", "d"], ["e"], {"axis": 1}),
            ("Flatten", ["e"], ["f"], {}),
            ("Gemm", ["f", "w", "v"], ["y"], {"transB": 1, "alpha": 0.5, "beta": 2.0}),
        ],
        {"w": floats(3, 8), "v": floats(3)},
    ),
    "convolutions": (
        [
            ("Conv", ["x", "w", "v"], ["a"], {"auto_pad": "SAME_LOWER", "strides": [2, 1]}),
            ("Conv", ["a", "g"], ["b"], {"group": 3, "dilations": [1, 2], "pads": [1, 2, 0, 2]}),
            ("Conv", ["b", "w2"], ["y"], {"auto_pad": "VALID"}),
        ],
        {"w": floats(6, 4, 2, 3), "v": floats(6), "g": floats(6, 2, 2, 3), "w2": floats(2, 6, 1, 1)},
    ),
    "shapes": (
        [
            ("Transpose", ["x"], ["a"], {"perm": [0, 2, 3, 1]}),
            ("Shape", ["a"], ["s"], {}),
            ("Gather", ["s", "zero"], ["batch"], {}),
            ("Concat", ["batch", "rest"], ["t"], {"axis": 0}),
            ("Reshape", ["a", "t"], ["b"], {}),
            ("Split", ["b", "parts"], ["c", "d"], {"axis": 2}),
            ("MatMul", ["c", "m"], ["e"], {}),
            ("Unsqueeze", ["e", "zero"], ["f"], {}),
            ("Squeeze", ["f", "zero"], ["g"], {}),
            ("Concat", ["g", "d"], ["h"], {"axis": -1}),
            ("Slice", ["h", "one", "far", "one", "two"], ["i"], {}),
            ("Gather", ["i", "two_i"], ["j"], {"axis": 1}),
            ("Gather", ["i", "pair"], ["k"], {"axis": 2}),
            ("ReduceMean", ["k", "last"], ["l"], {}),
            ("ReduceSum", ["j", "last"], ["m2"], {"keepdims": 0}),
            ("Expand", ["l", "wide"], ["n"], {}),
            ("Tile", ["n", "reps"], ["o"], {}),
            ("ReduceMax", ["o", "last"], ["p"], {"keepdims": 0}),
            ("Einsum", ["p", "m2"], ["y"], {"equation": "bn,b->nb"}),
        ],
        {
            "zero": numbers(0), "one": numbers(1), "two": numbers(2), "far": numbers(2**40),
            "rest": numbers(-1, 4), "parts": numbers(3, 1), "m": floats(3, 3), "last": numbers(-1),
            "two_i": np.array(2, np.int64), "pair": numbers(-1, 0, 1), "wide": numbers(1, 1, 2),
            "reps": numbers(1, 2, 1),
        },
    ),
    "space": (
        [
            ("Pad", ["x", "pads", "c"], ["a"], {}),
            ("DepthToSpace", ["a"], ["b"], {"blocksize": 2}),
            ("SpaceToDepth", ["b"], ["d"], {"blocksize": 2}),
            ("DepthToSpace", ["d"], ["e"], {"blocksize": 2, "mode": "CRD"}),
            ("Pad", ["e", "two_sides"], ["f"], {"mode": "reflect"}),
            ("Pad", ["f", "two_sides"], ["g"], {"mode": "wrap"}),
            ("Pad", ["g", "two_sides"], ["y"], {"mode": "edge"}),
        ],
        {"pads": numbers(0, 0, 1, 0, 0, 0, 0, 2), "two_sides": numbers(0, 0, 1, 2, 0, 0, 0, 1), "c": ONE},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_operators_compute_what_onnx_says(tmp_path, name):
    nodes, constants = CHAINS[name]
    check_numbers(import_onnx(write_onnx(tmp_path / "m.onnx", nodes, constants, opset=21)))


RESIZES = [
    ({"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}, (12, 10)),
    ({"mode": "nearest"}, (3, 7)),
    ({"mode": "linear"}, (9, 7)),
    ({"mode": "linear"}, (4, 3)),
    ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, (9, 7)),
    ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, (12, 8)),
    ({"mode": "cubic", "coordinate_transformation_mode": "align_corners"}, (9, 7)),
]  # fmt: skip


@pytest.mark.parametrize("attrs, size", RESIZES, ids=str)
def test_resizes_compute_what_onnx_says(tmp_path, attrs, size):
    nodes = [("Resize", ["x", "", "", "s"], ["y"], attrs)]
    path = write_onnx(tmp_path / "m.onnx", nodes, {"s": numbers(2, 4, *size)}, opset=19)
    # Weights of a cubic are a few roundings of numbers near the integer coordinates.
    check_numbers(import_onnx(path), depth=600)


def test_a_sigmoid_times_its_operand_is_one_operator(tmp_path):
    nodes = [("Sigmoid", ["x"], ["s"], {}), ("Mul", ["s", "x"], ["y"], {})]
    imported = import_onnx(write_onnx(tmp_path / "m.onnx", nodes, {}))
    assert operators(imported.module) == {"nn.silu": 1}


def test_sources_name_values_and_places(tmp_path):
    nodes = [("Relu", ["x"], ["/a/b/Relu_out"], {}), ("Tanh", ["/a/b/Relu_out"], ["y"], {})]
    path = write_onnx(tmp_path / "m.onnx", nodes, {})
    model = onnx.load(path)
    model.graph.node[0].name, model.graph.node[1].name = "/a/b/Relu", "/head/Tanh"
    onnx.save(model, path)
    imported = import_onnx(path)
    places = {source.node: source.module_path for source in imported.sources.values()}
    assert places == {"/a/b/Relu_out": "a.b", "y": "head"}
    _, values = reference_values(imported, [np.ones(SHAPE)], ["/a/b/Relu_out"])
    np.testing.assert_array_equal(values["/a/b/Relu_out"], np.ones(SHAPE))


# -- sizes ---------------------------------------------------------------------------------


def open_file(path, dims):
    nodes = [("Relu", ["x"], ["y"], {})]
    return write_onnx(path, nodes, {}, shape=dims)


def test_open_sizes_ask_for_the_option(tmp_path):
    path = open_file(tmp_path / "m.onnx", ["N", 3, "H", None])
    with pytest.raises(InputError, match=r"open \(Nx3xHx\?\); .*--input-shape 1x3x1x1"):
        import_onnx(path)
    imported = import_onnx(path, [(2, 3, 8, 9)])
    assert imported.inputs[0].shape == imported.outputs[0].shape == (2, 3, 8, 9)
    with pytest.raises(InputError, match="has shape Nx3xHx\\?, not 2x4x8x9"):
        import_onnx(path, [(2, 4, 8, 9)])
    with pytest.raises(InputError, match=r"has 1 inputs \(x\) and 2 input shapes"):
        import_onnx(path, [(2, 3, 8, 9)] * 2)


def test_a_parc_of_a_file_with_another_size_is_no_parc(tmp_path):
    path = onnx_parc(tmp_path / "m.onnx", "pad_wrap", 2, dense=False, pe=False, resized=False)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    onnx.save(model, path)
    imported = import_onnx(path, [(2, 4, 7, 5)])
    assert "parc" not in operators(imported.module)
    assert "6 taps for lines of 7 points" in imported.near_misses[0][1]


# -- what is refused -----------------------------------------------------------------------


def changed(tmp_path, change):
    path = onnx_parc(tmp_path / "m.onnx", "slice_concat", 2, dense=False, pe=True, resized=False)
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def drop_weights(model):
    kept = [t for t in model.graph.initializer if t.name not in ("w", "b")]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)


def rename(model, old, new):
    next(n for n in model.graph.node if n.op_type == old).op_type = new


def circle(model):
    model.graph.node[0].input[0] = "y"


def external(model):
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../../etc/passwd"), ("length", "96")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def nan(model):
    tensor = next(t for t in model.graph.initializer if t.name == "w")
    array = numpy_helper.to_array(tensor).copy()
    array[0] = np.nan
    tensor.CopyFrom(numpy_helper.from_array(array, "w"))


def short_data(model):
    next(t for t in model.graph.initializer if t.name == "w").raw_data = b"123"


def double_input(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE


def opset(version):
    def change(model):
        model.opset_import[0].version = version

    return change


@pytest.mark.parametrize(
    "change, error, message",
    [
        (drop_weights, InputError, "lacks initialisers or nodes for 'w', 'b'"),
        (circle, InputError, "go round in a circle"),
        (external, InputError, "stored beside the file cannot be read"),
        (nan, InputError, "NaN or infinity in 'w'"),
        (short_data, InputError, "initialiser 'w' is damaged"),
        (double_input, UnsupportedError, "input 'x' is double, not float"),
        (opset(9), UnsupportedError, "uses opset 9; supported are 13 to 23. Export it again"),
        (opset(99), UnsupportedError, "uses opset 99"),
        (lambda m: m.graph.node[0].input.__setitem__(1, "w"), UnsupportedError, "Add at Add_z"),
        (lambda m: m.graph.output[0].__setattr__("name", "x"), UnsupportedError, "as it came"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(tmp_path, change, error, message):
    with pytest.raises(error, match=message):
        import_onnx(changed(tmp_path, change))


def test_all_unsupported_operators_are_named_at_once_with_their_nodes(tmp_path):
    nodes = [
        ("NonZero", ["x"], ["a"], {}),
        ("Selu", ["x"], ["b"], {}),
        ("LSTM", ["b", "b", "b"], ["c"], {}),
        ("Cast", ["x"], ["d"], {"to": TensorProto.INT64}),
        ("Selu", ["c"], ["e"], {}),
    ]
    path = write_onnx(tmp_path / "m.onnx", nodes, {}, outputs=("a", "e", "d"))
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(path)
    for line in (
        "NonZero at NonZero_a: there is no conversion for it",
        "Selu (2 times) at Selu_b, Selu_e: there is no conversion for it",
        "LSTM at LSTM_c: there is no conversion for it",
        "Cast at Cast_d: its result is not float32",
    ):
        assert f"\n  {line}" in str(caught.value)


def test_functions_of_the_file_are_inlined(tmp_path):
    body = helper.make_node("Relu", ["p"], ["q"])
    function = helper.make_function(
        "mine", "Act", ["p"], ["q"], [body], [helper.make_opsetid("", 18)]
    )
    node = helper.make_node("Act", ["x"], ["y"], domain="mine")
    value = helper.make_tensor_value_info
    graph = helper.make_graph([node], "g", [value("x", 1, SHAPE)], [value("y", 1, SHAPE)])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[function])
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    assert operators(import_onnx(tmp_path / "m.onnx").module) == {"nn.relu": 1}


@pytest.mark.parametrize(
    "data, message",
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"PK\x03\x04 something else", "truncated, corrupt or not an ONNX file"),
        (b"\x08\x09", "holds no graph"),
    ],
)
def test_files_that_are_no_models(tmp_path, data, message):
    path = tmp_path / "m.onnx"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        import_model(path)


def test_files_of_other_kinds_are_named():
    with pytest.raises(InputError, match=r"suffix '\.pt'; model files are \.onnx, \.pt2"):
        import_model("weights.pt")


def test_nodes_in_any_order_are_put_in_one(tmp_path):
    path = write_onnx(
        tmp_path / "m.onnx", [("Tanh", ["a"], ["y"], {}), ("Relu", ["x"], ["a"], {})], {}
    )
    imported = import_onnx(path)
    assert list(operators(imported.module)) == ["nn.relu", "tanh"]
    check_numbers(imported)
