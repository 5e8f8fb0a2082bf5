"""The ParC in every spelling that models come with, as torch modules and as ONNX files."""

import numpy as np
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

CHANNELS, HEIGHT, WIDTH, OUT = 4, 6, 5, 3
SHAPE = (2, CHANNELS, HEIGHT, WIDTH)
STORED = 8  # taps of kernels and embeddings that are resized

TORCH = ("cat", "pad", "padding_mode", "rfft", "fft")
ONNX = ("slice_concat", "pad_wrap", "pad_wrap_centred", "dft17", "dft20", "dft_complex")


def length_of(dim):
    return SHAPE[dim]


def lined_up(taps, dim):
    """(..., N) as (..., N, 1) for dim 2 and (..., 1, N) for dim 3."""
    return taps[..., None] if dim == 2 else taps[..., None, :]


class Spelled(nn.Module):
    """One ParC with bias in the given spelling; parameters as their authors store them."""

    def __init__(self, spelling, dim, *, dense, pe, resized):
        super().__init__()
        self.spelling, self.dim, self.dense, self.resized = spelling, dim, dense, resized
        generator = torch.Generator().manual_seed(1)
        taps = STORED if resized else length_of(dim)
        lines = (OUT, CHANNELS) if dense else (CHANNELS, 1)
        size = (taps, 1) if dim == 2 else (1, taps)
        self.weight = nn.Parameter(torch.randn(*lines, *size, generator=generator))
        self.bias = nn.Parameter(torch.randn(lines[0], generator=generator))
        self.pe = nn.Parameter(torch.randn(1, CHANNELS, *size, generator=generator)) if pe else None
        if spelling == "padding_mode":
            self.conv = nn.Conv2d(
                CHANNELS,
                lines[0],
                size,
                groups=1 if dense else CHANNELS,
                padding="same",
                padding_mode="circular",
            )

    def sized(self, stored):
        if not self.resized:
            return stored
        n = length_of(self.dim)
        size = (n, 1) if self.dim == 2 else (1, n)
        return F.interpolate(stored, size, mode="bilinear", align_corners=True)

    def forward(self, x):
        if self.pe is not None:
            x = x + self.sized(self.pe)
        if self.spelling == "padding_mode":
            return self.conv(x)
        dim, n = self.dim, length_of(self.dim)
        weight = self.sized(self.weight)
        if self.spelling in ("cat", "pad"):
            if self.spelling == "cat":
                x = torch.cat([x, x.narrow(dim, 0, n - 1)], dim)
            else:
                x = F.pad(x, (0, 0, 0, n - 1) if dim == 2 else (0, n - 1, 0, 0), mode="circular")
            return F.conv2d(x, weight, self.bias, groups=1 if self.dense else CHANNELS)
        forward, inverse = (
            (torch.fft.rfft, torch.fft.irfft)
            if self.spelling == "rfft"
            else (torch.fft.fft, torch.fft.ifft)
        )
        spectrum, kernel = forward(x, dim=dim), torch.conj(forward(weight, dim=dim))
        if self.dense:
            line = 3 if dim == 2 else 2
            equation = "bchw,och->bohw" if dim == 2 else "bchw,ocw->bohw"
            product = torch.einsum(equation, spectrum, kernel.squeeze(line))
        else:
            product = spectrum * kernel.squeeze(1)
        return inverse(product, n=n, dim=dim).real + self.bias[:, None, None]


def write_onnx(path, nodes, constants, *, shape=SHAPE, opset=17, outputs=("y",), names=("x",)):
    """An ONNX file from (op, inputs, outputs, attributes) tuples."""
    graph = helper.make_graph(
        [helper.make_node(op, i, o, name=f"{op}_{o[0]}", **a) for op, i, o, a in nodes],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    model.ir_version = 9
    path.write_bytes(model.SerializeToString())
    return path


def numbers(*values):
    return np.array(values, np.int64)


def onnx_parc(path, spelling, dim, *, dense, pe, resized):
    """One ParC with bias as an ONNX file."""
    rng = np.random.default_rng(1)
    n = length_of(dim)
    lines = (OUT, CHANNELS) if dense else (CHANNELS, 1)
    stored = STORED if resized else n
    kernel = rng.standard_normal((*lines, stored)).astype(np.float32)
    constants = {"b": rng.standard_normal(lines[0]).astype(np.float32)}
    opset = {"dft20": 20, "pad_wrap": 19, "pad_wrap_centred": 20}.get(spelling, 18)
    nodes, z = [], "x"

    def resize(name, array):
        constants[f"{name}_stored"] = lined_up(array, dim)
        size = [*array.shape[:2], *((n, 1) if dim == 2 else (1, n))]
        constants[f"{name}_size"] = numbers(*size)
        attrs = dict(mode="linear", coordinate_transformation_mode="align_corners")
        nodes.append(("Resize", [f"{name}_stored", "", "", f"{name}_size"], [name], attrs))

    if pe:
        embedding = rng.standard_normal((1, CHANNELS, stored)).astype(np.float32)
        if resized:
            resize("pe", embedding)
        else:
            constants["pe"] = lined_up(embedding, dim)
        nodes.append(("Add", ["x", "pe"], ["z"], {}))
        z = "z"
    if spelling in ("slice_concat", "pad_wrap", "pad_wrap_centred"):
        if resized:
            resize("w", kernel)
        else:
            constants["w"] = lined_up(kernel, dim)
        if spelling == "slice_concat":
            constants |= {"s0": numbers(0), "s1": numbers(n - 1), "ax": numbers(dim)}
            nodes.append(("Slice", [z, "s0", "s1", "ax"], ["head"], {}))
            nodes.append(("Concat", [z, "head"], ["line"], {"axis": dim}))
        else:
            before = (n - 1) // 2 if spelling == "pad_wrap_centred" else 0
            pads = np.zeros((2, 4), np.int64)
            pads[:, dim] = (before, n - 1 - before)
            constants["pads"] = pads.ravel()
            nodes.append(("Pad", [z, "pads"], ["line"], {"mode": "wrap"}))
        attrs = {"group": 1 if dense else CHANNELS}
        nodes.append(("Conv", ["line", "w", "b"], ["y"], attrs))
        return write_onnx(path, nodes, constants, opset=opset)

    assert not resized, "the spectrum of a kernel is a constant"
    onesided = spelling != "dft_complex"
    spectrum = np.conj((np.fft.rfft if onesided else np.fft.fft)(kernel))
    if not dense:
        spectrum = spectrum[:, 0]
    parts = lined_up(spectrum, dim)[..., None]
    constants |= {
        "sr": parts.real.astype(np.float32),
        "si": parts.imag.astype(np.float32),
        "last": numbers(-1),
        "i0": numbers(0),
        "i1": numbers(1),
        "i2": numbers(2),
        "n": np.array(n, np.int64),
        "axis": np.array(dim, np.int64),
        "bias": constants.pop("b")[:, None, None],
    }

    def dft(x, y, **attrs):
        if opset < 20:
            length = ["n"] if attrs.get("inverse") else []
            return ("DFT", [x, *length], [y], {"axis": dim, **attrs})
        return ("DFT", [x, "n" if attrs.get("inverse") else "", "axis"], [y], attrs)

    nodes.append(("Unsqueeze", [z, "last"], ["real"], {}))
    nodes.append(dft("real", "X", onesided=int(onesided)))
    spectrum_name = "X"
    if dense:
        constants["one"], constants["two"] = numbers(1), numbers(2)
        nodes.append(("Unsqueeze", ["X", "one"], ["X6"], {}))
        spectrum_name = "X6"
    nodes += [
        ("Slice", [spectrum_name, "i0", "i1", "last"], ["xr"], {}),
        ("Slice", [spectrum_name, "i1", "i2", "last"], ["xi"], {}),
        ("Mul", ["xr", "sr"], ["rr"], {}),
        ("Mul", ["xi", "si"], ["ii"], {}),
        ("Mul", ["xr", "si"], ["ri"], {}),
        ("Mul", ["xi", "sr"], ["ir"], {}),
        ("Sub", ["rr", "ii"], ["yr"], {}),
        ("Add", ["ri", "ir"], ["yi"], {}),
        ("Concat", ["yr", "yi"], ["Y"], {"axis": -1}),
    ]
    product = "Y"
    if dense:
        nodes.append(("ReduceSum", ["Y", "two"], ["Y5"], {"keepdims": 0}))
        product = "Y5"
    nodes.append(dft(product, "back", inverse=1, onesided=int(onesided)))
    if onesided:
        nodes.append(("Squeeze", ["back", "last"], ["corr"], {}))
    else:
        constants["zero"] = np.array(0, np.int64)
        nodes.append(("Gather", ["back", "zero"], ["corr"], {"axis": -1}))
    nodes.append(("Add", ["corr", "bias"], ["y"], {}))
    return write_onnx(path, nodes, constants, opset=opset)


__all__ = ["ONNX", "SHAPE", "TORCH", "Spelled", "numbers", "onnx_parc", "write_onnx"]
