"""Does `convert` plug ParC into models that others wrote, as timm's ConvNeXt and ResNet?"""

import pytest
import torch

from parc_hw.importers import import_torch
from parc_hw.nn import convert

pytestmark = pytest.mark.torch

SHAPE = (1, 3, 224, 224)


@pytest.fixture(scope="module")
def timm():
    # The registry's torchvision is built for another torch than the CPU build: its operators do
    # not load, and its import asks for nothing but their schemas.
    if not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm

    return timm


@pytest.mark.parametrize(
    ("name", "fraction", "replaced"),
    [
        ("convnext_atto", 1 / 3, ["stages.2.blocks.4", "stages.2.blocks.5", "stages.3.blocks.1"]),
        ("resnet50", 1 / 2, ["layer3.3", "layer3.4", "layer3.5", "layer4.2"]),
    ],
)
def test_the_last_blocks_of_timms_models_get_parc(timm, name, fraction, replaced):
    model = timm.create_model(name, pretrained=False).eval()
    names = convert(model, fraction, input_shape=SHAPE)
    assert [n.rpartition(".")[0] for n in names] == replaced
    with torch.no_grad():
        assert model(torch.zeros(SHAPE)).shape == (1, 1000)


@pytest.mark.tvm
def test_a_converted_model_of_timm_imports_with_every_parc_as_one_operator(timm):
    model = timm.create_model("convnext_atto", pretrained=False).eval()
    names = convert(model, input_shape=SHAPE)
    text = import_torch(model, [SHAPE]).module.script(show_meta=False)
    assert text.count("R.parc(") == 2 * len(names)
