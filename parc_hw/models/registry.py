"""What is known about each model before it is made?

Plain data: importing this module imports no torch. A new model is one more `_Entry`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from parc_hw.errors import InputError, nearest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["ModelInfo", "Option", "build", "info", "names"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A keyword that `create` takes for a model.

    `choices` lists the accepted values; None accepts any whole number of at least 1.
    """

    name: str
    default: Any
    what: str
    choices: tuple[Any, ...] | None = None

    def check(self, model: str, value: Any) -> None:
        """Raise InputError when `value` is not acceptable."""
        if self.choices is None:
            fits = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            accepted = "a whole number of at least 1"
        else:  # True == 1 in Python: the type counts too
            fits = any(value == c and type(value) is type(c) for c in self.choices)
            accepted = f"one of {', '.join(map(repr, self.choices))}"
        if not fits:
            raise InputError(
                f"option {self.name} of {model} ({self.what}) must be {accepted}, not {value!r}."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """A model of the zoo: what it is, what it expects, how large it is here and in its paper.

    Attributes
    ----------
    name, title, family : str
        Name in the zoo, name for people, and the paper's family.
    resolution : int
        Height and width of the default input.
    input_shape : tuple of int
        The default input, NCHW.
    channel_order : str
        "RGB", "BGR" or "grey".
    value_range : (float, float)
        Range of a pixel before mean and deviation are applied.
    mean, std : tuple of float
        Per channel, in `channel_order`: the network sees `(pixel - mean) / std`.
    classes : int
        Entries of the output.
    trained : bool
        Whether trained weights are shipped.
    parameters, macs : int
        Counted on this implementation (`count_parameters`, `count_macs` at `input_shape`).
    paper_parameters, paper_macs : float or None
        As printed in the paper, in millions and in 1e9 multiply-accumulates.
    official_parameters : int or None
        Counted on the authors' code, where it is public.
    notes : str
        Where ours, the paper and the code differ, and why.
    options : tuple of Option
        Keywords of `create`.
    """

    name: str
    title: str
    family: str
    resolution: int
    input_shape: tuple[int, int, int, int]
    channel_order: str
    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    trained: bool
    parameters: int
    macs: int
    paper_parameters: float | None = None
    paper_macs: float | None = None
    official_parameters: int | None = None
    notes: str = ""
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """`builder` is "module:function", called with the model's name and its options.

    The builder of a model with shipped weights takes the option `pretrained`.
    """

    info: ModelInfo
    builder: str


_CLASSES = Option(name="classes", default=1000, what="entries of the output")
_PRETRAINED = Option(
    name="pretrained", default=True, what="with the shipped weights", choices=(True, False)
)
_POSITION_EMBEDDING = Option(
    name="position_embedding",
    default=True,
    what="ParC with position embedding; False only with pretrained=False",
    choices=(True, False),
)
_STEM = Option(
    name="stem",
    default="conv1",
    what="one convolution of 16x16, or three",
    choices=("conv1", "conv3"),
)
_MLP_DW = Option(
    name="mlp_dw",
    default=True,
    what="depthwise 3x3 in the MLP; False is equation 6 as printed",
    choices=(True, False),
)
_IMAGENET: dict[str, Any] = {
    "resolution": 224,
    "input_shape": (1, 3, 224, 224),
    "channel_order": "RGB",
    "value_range": (0.0, 1.0),
    "mean": IMAGENET_MEAN,
    "std": IMAGENET_STD,
    "classes": 1000,
    "trained": False,
}

_CANVAS: dict[str, Any] = {
    "family": "canvas",
    "resolution": 112,
    "input_shape": (1, 1, 112, 112),
    "channel_order": "grey",
    "value_range": (0.0, 1.0),
    "mean": (0.0,),
    "std": (1.0,),
    "classes": 10,
    "trained": True,
}

# The public code of ParC-Net reads images by OpenCV and divides by 255, no more.
_CVNETS: dict[str, Any] = {
    **_IMAGENET,
    "resolution": 256,
    "input_shape": (1, 3, 256, 256),
    "channel_order": "BGR",
    "mean": (0.0, 0.0, 0.0),
    "std": (1.0, 1.0, 1.0),
}


def _parcnet_options(fusion: str) -> tuple[Option, ...]:
    """Options of a ParC-Net, in the words of the public code."""
    return (
        _CLASSES,
        Option(
            name="fusion",
            default=fusion,
            what="how a level's input joins its ParC blocks' output",
            choices=("concat", "add"),
        ),
        Option(
            name="kernel",
            default="gcc_ca",
            what="ParC blocks with channel attention, or without",
            choices=("gcc_ca", "gcc"),
        ),
        Option(
            name="instance_kernel",
            default="interpolation_bilinear",
            what="how stored kernels and embeddings get the input's length",
            choices=("interpolation_bilinear", "crop"),
        ),
    )


_ENTRIES = (
    _Entry(
        info=ModelInfo(
            name="parc_canvas",
            title="Canvas network with ParC",
            parameters=222_794,
            macs=20_811_776,
            notes=(
                "Reads the digit nearest the top left corner of a canvas (docs/accuracy.md). ParC "
                "at 28, 14 and 7 points, on channel halves; the value of a pixel is its ink."
            ),
            options=(_PRETRAINED, _POSITION_EMBEDDING),
            **_CANVAS,
        ),
        builder="parc_hw.models.canvas:create_canvas",
    ),
    _Entry(
        info=ModelInfo(
            name="conv_canvas",
            title="Canvas network with convolutions",
            parameters=234_218,
            macs=22_743_552,
            notes="The same network with a depthwise 7x7 convolution in place of each ParC.",
            options=(_PRETRAINED,),
            **_CANVAS,
        ),
        builder="parc_hw.models.canvas:create_canvas",
    ),
    _Entry(
        info=ModelInfo(
            name="parc_convnext_xt",
            title="ParC-ConvNeXt-XT",
            family="ParC-ConvNets",
            parameters=7_412_824,
            macs=1_139_222_400,
            paper_parameters=7.41,
            paper_macs=1.1,
            official_parameters=7_412_824,
            notes=(
                "ParC in the last three blocks of stage 3 (14 points) and the last of stage 4 "
                "(7 points), on channel halves (H, then W). For inputs other than 224x224 kernels and "
                "position embeddings are resized, as in the authors' segmentation code."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.convnext:create_convnext",
    ),
    _Entry(
        info=ModelInfo(
            name="convnext_xt",
            title="ConvNeXt-XT",
            family="ParC-ConvNets",
            parameters=7_438_360,
            macs=1_143_964_032,
            paper_parameters=7.44,
            paper_macs=1.1,
            official_parameters=7_438_360,
            notes="The same network with a depthwise 7x7 convolution in every block.",
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.convnext:create_convnext",
    ),
    _Entry(
        info=ModelInfo(
            name="convnext_bk_xt",
            title="ConvNeXt-BK-XT",
            family="ParC-ConvNets",
            parameters=7_401_496,
            macs=1_139_109_504,
            paper_parameters=7.4,
            paper_macs=1.1,
            official_parameters=7_401_496,
            notes=(
                "The same network with big kernels where ParC-ConvNeXt-XT has ParC: depthwise "
                "along H and W on channel halves, 13 and 7 taps, zeros beyond the edge, no "
                "position embedding."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.convnext:create_convnext",
    ),
    _Entry(
        info=ModelInfo(
            name="parc_resnet50",
            title="ParC-ResNet50",
            family="ParC-ConvNets",
            parameters=23_737_640,
            macs=3_941_466_112,
            paper_parameters=23.7,
            paper_macs=4.0,
            official_parameters=23_737_640,
            notes=(
                "ParC in the last three blocks of stage 3 (14 points) and the last of stage 4 (7 "
                "points), dense, on channel halves (H, then W), resized for other inputs. The "
                "paper's 4.0G count BatchNorm as well, two operations per element (3.96)."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.resnet:create_resnet",
    ),
    _Entry(
        info=ModelInfo(
            name="resnet50",
            title="ResNet50",
            family="ParC-ConvNets",
            parameters=25_557_032,
            macs=4_089_184_256,
            paper_parameters=25.6,
            paper_macs=4.1,
            official_parameters=25_557_032,
            notes=(
                "The same network with a 3x3 convolution in every block; keys as in torchvision."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.resnet:create_resnet",
    ),
    _Entry(
        info=ModelInfo(
            name="parc_mobilenetv2",
            title="ParC-MobileNetV2",
            family="ParC-ConvNets",
            parameters=3_532_136,
            macs=301_997_312,
            paper_parameters=3.54,
            paper_macs=0.3,
            official_parameters=3_532_136,
            notes=(
                "ParC in blocks 3 and 4 of the 64 channel stage (14 points) and the last block of "
                "the 96 (14) and 160 channel stages (7), on channel halves (H, then W), resized "
                "for other inputs. The code has position embeddings in the first ParC block of a "
                "stage only; in each, parameters would be 3.54M (3,537,512), as printed. The "
                "paper's 0.6G FLOPs are twice the multiply-accumulates."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.mobilenetv2:create_mobilenetv2",
    ),
    _Entry(
        info=ModelInfo(
            name="mobilenetv2",
            title="MobileNetV2",
            family="ParC-ConvNets",
            parameters=3_504_872,
            macs=300_774_272,
            paper_parameters=3.51,
            paper_macs=0.3,
            official_parameters=3_504_872,
            notes=(
                "The same network with a depthwise 3x3 convolution in every block; keys as in "
                "torchvision. The paper's 0.6G FLOPs are twice the multiply-accumulates, its "
                "3.51M are rounded up."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.mobilenetv2:create_mobilenetv2",
    ),
    _Entry(
        info=ModelInfo(
            name="parcnet_s",
            title="ParC-Net-S",
            family="ParC-Net",
            parameters=5_037_088,
            macs=1_657_347_584,
            paper_parameters=5.0,
            paper_macs=1.74,
            official_parameters=5_037_088,
            notes=(
                "Also published as EdgeFormer-S. The papers print 3.5G FLOPs, twice the 1.74G "
                "MAdds of the authors' README; their profiler counts the channel attention's 1x1 "
                "convolutions at every pixel, though they see one: without that, 1.657G. Kernels "
                "and embeddings are resized to the input; each to its own axis, where the "
                "released code takes the height for both and so needs squares."
            ),
            options=_parcnet_options("concat"),
            **_CVNETS,
        ),
        builder="parc_hw.models.parcnet:create_parcnet",
    ),
    _Entry(
        info=ModelInfo(
            name="parcnet_xs",
            title="ParC-Net-XS",
            family="ParC-Net",
            parameters=2_185_384,
            macs=944_016_896,
            official_parameters=2_185_384,
            notes="In the public code alone, not in the papers. Its own fusion is 'add'.",
            options=_parcnet_options("add"),
            **_CVNETS,
        ),
        builder="parc_hw.models.parcnet:create_parcnet",
    ),
    _Entry(
        info=ModelInfo(
            name="parcnet_h",
            title="ParC-Net-H",
            family="ParC-Net",
            parameters=20_403_940,
            macs=8_544_418_656,
            official_parameters=20_403_940,
            notes="In the public code alone, not in the papers.",
            options=_parcnet_options("concat"),
            **_CVNETS,
        ),
        builder="parc_hw.models.parcnet:create_parcnet",
    ),
    _Entry(
        info=ModelInfo(
            name="mobilevit_s",
            title="MobileViT-S",
            family="MobileViT",
            parameters=5_578_632,
            macs=2_000_831_488,
            paper_parameters=5.6,
            paper_macs=2.01,
            official_parameters=5_578_632,
            notes=(
                "The ParC-Net paper prints 4.0G FLOPs, twice the 2.01G MAdds of the authors' "
                "README; their profiler counts the attention products by the channels squared."
            ),
            options=(_CLASSES,),
            **_CVNETS,
        ),
        builder="parc_hw.models.mobilevit:create_mobilevit",
    ),
    _Entry(
        info=ModelInfo(
            name="mobilevit_xs",
            title="MobileViT-XS",
            family="MobileViT",
            parameters=2_317_848,
            macs=1_025_911_808,
            paper_parameters=2.3,
            official_parameters=2_317_848,
            notes="Parameters as printed in the MobileViT paper.",
            options=(_CLASSES,),
            **_CVNETS,
        ),
        builder="parc_hw.models.mobilevit:create_mobilevit",
    ),
    _Entry(
        info=ModelInfo(
            name="ssdlite_parcnet_s",
            title="SSDLite on ParC-Net-S",
            family="ParC-Net",
            parameters=5_197_282,
            macs=2_747_360_544,
            paper_parameters=5.2,
            official_parameters=5_197_282,
            notes=(
                "Detection, 80 classes of COCO and background; two outputs: class scores before "
                "softmax, then box offsets, for 3232 anchors at 320x320. Table 8 of the Fast-ParC "
                "paper prints 5.7M, its Table 3 and the other papers 5.2M."
            ),
            options=(replace(_CLASSES, default=81, what="classes, with the background"),),
            **{
                **_CVNETS,
                "resolution": 320,
                "input_shape": (1, 3, 320, 320),
                "classes": 81,
            },
        ),
        builder="parc_hw.models.ssdlite:create_ssdlite",
    ),
    _Entry(
        info=ModelInfo(
            name="deeplabv3_parcnet_s",
            title="DeepLabV3 on ParC-Net-S",
            family="ParC-Net",
            parameters=5_816_397,
            macs=9_754_237_440,
            paper_parameters=5.8,
            official_parameters=5_816_397,
            notes=(
                "Segmentation, 20 classes of Pascal VOC and background, output stride 16. As in "
                "the authors' code, nothing in the encoder is dilated."
            ),
            options=(replace(_CLASSES, default=21, what="classes, with the background"),),
            **{
                **_CVNETS,
                "resolution": 512,
                "input_shape": (1, 3, 512, 512),
                "classes": 21,
            },
        ),
        builder="parc_hw.models.deeplabv3:create_deeplabv3",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_n",
            title="Conv2Former-N",
            family="Conv2Former",
            parameters=14_992_840,
            macs=2_330_299_392,
            paper_parameters=15,
            paper_macs=2.2,
            official_parameters=14_992_840,
            notes=(
                "Hadamard products with a 7x7 depthwise convolution stand for attention; 11x11 in "
                "another version of the authors' code (15.24M, 2.41G). Neither leads to the "
                "paper's 2.2G; a stem of one 4x4 convolution would (2.19G)."
            ),
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_t",
            title="Conv2Former-T",
            family="Conv2Former",
            parameters=26_697_204,
            macs=4_360_505_024,
            paper_parameters=27,
            paper_macs=4.4,
            official_parameters=26_697_204,
            notes="Hadamard products with an 11x11 depthwise convolution stand for attention.",
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_s",
            title="Conv2Former-S",
            family="Conv2Former",
            parameters=50_032_692,
            macs=8_708_384_000,
            paper_parameters=50,
            paper_macs=8.7,
            official_parameters=50_032_692,
            notes="Hadamard products with an 11x11 depthwise convolution stand for attention.",
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_b",
            title="Conv2Former-B",
            family="Conv2Former",
            parameters=90_029_112,
            macs=15_890_112_512,
            paper_parameters=90,
            paper_macs=15.9,
            official_parameters=90_029_112,
            notes="Hadamard products with an 11x11 depthwise convolution stand for attention.",
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_l",
            title="Conv2Former-L",
            family="Conv2Former",
            parameters=198_893_736,
            macs=36_037_482_496,
            paper_parameters=199,
            paper_macs=36.0,
            official_parameters=198_893_736,
            notes="Hadamard products with an 11x11 depthwise convolution stand for attention.",
            options=(_CLASSES,),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_is",
            title="Conv2Former-IS",
            family="Conv2Former",
            parameters=23_229_480,
            macs=4_280_916_480,
            paper_parameters=23,
            paper_macs=4.3,
            notes=(
                "18 blocks at a sixteenth of the size. No code is public: 320 channels fit the "
                "paper's numbers, and for the stem of three convolutions (23.43M, 4.48G; printed "
                "23M, 4.5G) so do 4x4, 3x3 and 2x2 of strides 4, 2 and 2."
            ),
            options=(_CLASSES, _STEM),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="conv2former_ib",
            title="Conv2Former-IB",
            family="Conv2Former",
            parameters=85_724_520,
            macs=16_508_431_360,
            paper_parameters=86,
            paper_macs=16.5,
            notes=(
                "The same with 640 channels; with the stem of three convolutions 86.99M and "
                "17.34G (printed 87M, 17.3G)."
            ),
            options=(_CLASSES, _STEM),
            **_IMAGENET,
        ),
        builder="parc_hw.models.conv2former:create_conv2former",
    ),
    _Entry(
        info=ModelInfo(
            name="convformer_s",
            title="ConvFormer-S",
            family="ConvFormer",
            parameters=26_669_352,
            macs=5_005_619_200,
            paper_parameters=26.7,
            paper_macs=5.0,
            notes=(
                "No code is public. BatchNorms, biases, the width of the gate and a depthwise 3x3 "
                "in the MLP are chosen so that the parameters of S, L and of the three ablations "
                "are the paper's; without that 3x3 (mlp_dw=False), which equation 6 does not "
                "show, they are 26.52M."
            ),
            options=(_CLASSES, _MLP_DW),
            **_IMAGENET,
        ),
        builder="parc_hw.models.convformer:create_convformer",
    ),
    _Entry(
        info=ModelInfo(
            name="convformer_l",
            title="ConvFormer-L",
            family="ConvFormer",
            parameters=45_000_296,
            macs=8_184_557_568,
            paper_parameters=45.0,
            paper_macs=8.7,
            notes=(
                "As ConvFormer-S, deeper; with mlp_dw=False 44.74M. The paper's 8.7G cannot be: the "
                "9 blocks more than S, at 5.0G, add 3.54G at most even if every parameter acted on "
                "each pixel. 8.7G is also what its table prints for Swin-S."
            ),
            options=(_CLASSES, _MLP_DW),
            **_IMAGENET,
        ),
        builder="parc_hw.models.convformer:create_convformer",
    ),
)
_REGISTRY = {entry.info.name: entry for entry in _ENTRIES}


def names() -> tuple[str, ...]:
    """Names of all models, in the order in which they are shown."""
    return tuple(_REGISTRY)


def info(name: str) -> ModelInfo:
    """What is known about a model.

    Raises
    ------
    InputError
        The name is unknown; the message gives the nearest ones and the whole list.
    """
    return _entry(name).info


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """Make a model, in eval mode; `parc_hw.models.create` documents it."""
    entry = _entry(name)
    known = {option.name: option for option in entry.info.options}
    for keyword, value in options.items():
        if keyword not in known:
            accepted = f"{name} takes {', '.join(known)}" if known else f"{name} takes no options"
            raise InputError(f"unknown option {keyword!r}: {accepted}.{nearest(keyword, known)}")
        known[keyword].check(name, value)
    module, _, function = entry.builder.partition(":")
    make = getattr(importlib.import_module(module), function)
    model: nn.Module = make(name, **options)
    return model.eval()


def _entry(name: str) -> _Entry:
    if name not in _REGISTRY:
        raise InputError(
            f"unknown model {name!r}.{nearest(str(name), _REGISTRY)} "
            f"Known are {', '.join(_REGISTRY)}."
        )
    return _REGISTRY[name]
