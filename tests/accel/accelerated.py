"""Small networks of one operator, compiled and run: what the tests of the compiler share."""

from __future__ import annotations

import functools

import numpy as np

from fixedpoint.integer.operators import Window
from parc_hw.accel import simulator
from parc_hw.accel.description import load_description
from parc_hw.accel.network import compile_network, host_functions, words_of
from parc_hw.accel.scheduled import Schedules
from parc_hw.integer import IntegerModel, Layer, Network, choose_formats, observe

HEIGHT, WIDTH, CHANNELS = 6, 8, 12


@functools.cache
def schedules(machine: str) -> Schedules:
    """One set of schedules per machine, so that tests share what TVM lowered."""
    return Schedules(load_description(machine))


def random(seed=0):
    return np.random.default_rng(seed)


def network(*layers, shape=(HEIGHT, WIDTH, CHANNELS)):
    """A network of an input and `layers`, whose inputs count from the network's input as 0."""
    first = Layer(name="input", kind="input", inputs=(), shape=(1, *shape))
    channels, height, width = shape[2], shape[0], shape[1]
    return Network(
        name="small",
        layers=(first, *layers),
        output=len(layers),
        input_shape=(channels, height, width),
        input_axes=(0, 2, 3, 1),
        origin="made by a test",
        trained=False,
    )


def layer(kind, shape, inputs=(0,), *, weight=None, bias=None, name=None, **rest):
    return Layer(
        name=name or kind,
        kind=kind,
        inputs=inputs,
        shape=(1, *shape),
        weight=None if weight is None else random(len(weight)).standard_normal(weight) * 0.4,
        bias=None if bias is None else random(7).standard_normal(bias),
        **rest,
    )


def _convolution(taps, strides=(1, 1), padding=(0, 0, 0, 0), dilation=(1, 1), outputs=10, **rest):
    window = Window(taps=taps, strides=strides, dilation=dilation, padding=padding)
    rows, columns = window.extents(HEIGHT, WIDTH)
    return network(
        layer(
            "convolution",
            (rows, columns, outputs),
            weight=(*taps, CHANNELS, outputs),
            bias=(outputs,),
            attrs={"window": window},
            **rest,
        )
    )


def _depthwise(taps, strides=(1, 1), padding=(0, 0, 0, 0), multiplier=1):
    window = Window(taps=taps, strides=strides, padding=padding)
    rows, columns = window.extents(HEIGHT, WIDTH)
    return network(
        layer(
            "depthwise",
            (rows, columns, CHANNELS * multiplier),
            weight=(*taps, CHANNELS * multiplier),
            bias=(CHANNELS * multiplier,),
            attrs={"window": window},
        )
    )


def _parc(axis, outputs=None):
    length = (HEIGHT, WIDTH)[axis - 1]
    count = outputs or CHANNELS
    weight = (CHANNELS, length) if outputs is None else (outputs, CHANNELS, length)
    return network(
        layer(
            "parc" if outputs is None else "parc_dense",
            (HEIGHT, WIDTH, count),
            weight=weight,
            bias=(count, length),
            attrs={"axis": axis},
        )
    )


MAP = (HEIGHT, WIDTH, CHANNELS)
_SLICED = (slice(None), slice(None), slice(None))


def _pair(kind):
    first = layer("affine", MAP, weight=(CHANNELS,), bias=(CHANNELS,), name="first")
    return network(first, layer(kind, MAP, (0, 1)))


def _gate():
    """A map times one number per channel, as squeeze and excitation has it."""
    mean = layer("mean", (1, 1, CHANNELS), attrs={"keep": True, "count": HEIGHT * WIDTH})
    gate = layer("sigmoid", (1, 1, CHANNELS), (1,))
    return network(mean, gate, layer("multiply", MAP, (0, 2)))


def _halves():
    """ParC along H on one half of the channels, along W on the other, then a convolution."""
    half = CHANNELS // 2
    cuts = [
        layer(
            "slice", (HEIGHT, WIDTH, half), name=f"cut{n}",
            attrs={"index": (*_SLICED, slice(n * half, (n + 1) * half, 1))},
        )
        for n in range(2)
    ]  # fmt: skip
    parcs = [
        layer(
            "parc", (HEIGHT, WIDTH, half), (n + 1,), name=f"parc{n}",
            weight=(half, (HEIGHT, WIDTH)[n]), bias=(half, (HEIGHT, WIDTH)[n]),
            attrs={"axis": n + 1},
        )
        for n in range(2)
    ]  # fmt: skip
    window = Window(taps=(3, 3), padding=(1, 1, 1, 1))
    return network(
        *cuts,
        *parcs,
        layer("concat", MAP, (3, 4), attrs={"axis": 3}),
        layer(
            "convolution", (HEIGHT, WIDTH, 5), (5,), weight=(3, 3, CHANNELS, 5), bias=(5,),
            attrs={"window": window},
        ),
    )  # fmt: skip


def _attention():
    """Tokens (H W, C): scores of all with all, softmax, and their sums."""
    tokens = HEIGHT * WIDTH
    return network(
        layer("reshape", (tokens, CHANNELS), name="tokens"),
        layer("permute", (CHANNELS, tokens), (1,), attrs={"axes": (0, 2, 1)}),
        layer("matmul", (tokens, tokens), (1, 2), attrs={"count": CHANNELS}, name="scores"),
        layer("softmax", (tokens, tokens), (3,)),
        layer("matmul", (tokens, CHANNELS), (4, 1), attrs={"count": tokens}, name="sums"),
    )


def _patches():
    """Tokens by their place in patches of 2 x 2, as mobile transformers have them."""
    rows, columns = HEIGHT // 2, WIDTH // 2
    return network(
        layer("reshape", (rows, 2, columns, 2, CHANNELS), name="apart"),
        layer("permute", (2, 2, rows, columns, CHANNELS), (1,), attrs={"axes": (0, 2, 4, 1, 3, 5)}),
    )


def _queries():
    """The second of three parts of every token, which lie behind each other in its channels."""
    cut = (slice(None), slice(None), slice(1, 2, 1), slice(None))
    return network(
        layer("reshape", (HEIGHT * WIDTH, 3, CHANNELS // 3), name="parts"),
        layer("slice", (HEIGHT * WIDTH, 1, CHANNELS // 3), (1,), attrs={"index": cut}),
        layer("gelu", (HEIGHT * WIDTH, 1, CHANNELS // 3), (2,)),
    )


def _pool():
    window = Window(taps=(3, 3), strides=(2, 2), padding=(1, 1, 1, 1))
    rows, columns = window.extents(HEIGHT, WIDTH)
    return network(
        layer("clip", MAP, lowest=0.0),
        layer("max_pool", (rows, columns, CHANNELS), (1,), attrs={"window": window}),
    )


OPERATORS = {
    "linear": lambda: network(
        layer("linear", (HEIGHT, WIDTH, 9), weight=(CHANNELS, 9), bias=(9,), lowest=0.0)
    ),
    "pointwise": lambda: _convolution((1, 1)),
    "convolution": lambda: _convolution((3, 3), padding=(1, 1, 1, 1), lowest=0.0, highest=1.0),
    "strided": lambda: _convolution((3, 3), strides=(2, 2), padding=(1, 1, 1, 1)),
    "patches": lambda: _convolution((2, 2), strides=(2, 2)),
    "dilated": lambda: _convolution((3, 3), padding=(2, 2, 2, 2), dilation=(2, 2)),
    "depthwise": lambda: _depthwise((3, 3), padding=(1, 1, 1, 1)),
    "depthwise strided": lambda: _depthwise((3, 3), (2, 2), (1, 1, 1, 1)),
    "depthwise multiplied": lambda: _depthwise((3, 3), (2, 2), (1, 1, 1, 1), 3),
    "parc H": lambda: _parc(1),
    "parc W": lambda: _parc(2),
    "parc dense H": lambda: _parc(1, 5),
    "parc dense W": lambda: _parc(2, 5),
    "affine": lambda: network(layer("affine", MAP, weight=(CHANNELS,), bias=(CHANNELS,))),
    "layer norm": lambda: network(
        layer("layer_norm", MAP, weight=(CHANNELS,), bias=(CHANNELS,), attrs={"epsilon": 1e-6})
    ),
    "add": lambda: _pair("add"),
    "subtract": lambda: _pair("subtract"),
    "multiply": lambda: _pair("multiply"),
    "gate": _gate,
    "mean": lambda: network(
        layer("mean", (CHANNELS,), attrs={"keep": False, "count": HEIGHT * WIDTH})
    ),
    "clip": lambda: network(layer("clip", MAP, lowest=-0.5, highest=0.75)),
    "max pool": _pool,
    "halves": _halves,
    "attention": _attention,
    "patches of tokens": _patches,
    "queries": _queries,
    **{
        name: functools.partial(lambda kind: network(layer(kind, MAP)), name)
        for name in ("gelu", "gelu_tanh", "silu", "hardswish", "sigmoid", "hardsigmoid")
    },
}


def quantised(made, bits, seed=0):
    """The network in integers, with the ranges of random images."""
    images = random(seed).standard_normal((2, *made.input_shape)).astype(np.float32)
    return IntegerModel(made, choose_formats(made, observe(made, images), bits=bits))


def corner_images(model):
    """Random images, and words at both ends of the input's format."""
    shape, fmt = model.network.input_shape, model.layers[0].format
    low, high = fmt.min_raw * fmt.lsb, fmt.max_raw * fmt.lsb
    signs = random(3).integers(0, 2, shape)
    return np.stack(
        [
            random(1).standard_normal(shape),
            np.full(shape, low),
            np.full(shape, high),
            np.where(signs, low, high),
            np.zeros(shape),
        ]
    ).astype(np.float32)


def outputs(model, compiled, machine, images):
    """The program's words for each image, flat."""
    found = []
    for image in images:
        memory = compiled.program.new_external()
        words = model.input_words(image[None])
        words_of(memory, compiled.input)[...] = words.reshape(compiled.input.extents)
        simulator.run(
            compiled.program, machine, memory, host=host_functions(compiled, model), timing=False
        )
        found.append(words_of(memory, compiled.output).reshape(-1).astype(np.int64))
    return np.stack(found)


def compiled_network(model, machine):
    return compile_network(model, load_description(machine), schedules=schedules(machine))
