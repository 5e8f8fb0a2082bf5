"""Detection and segmentation on ParC-Net, against the authors' public code."""

import pytest
import torch
from goldens import assert_golden, assert_official_keys

from parc_hw import models
from parc_hw.errors import InputError
from parc_hw.models.deeplabv3 import RATES

pytestmark = pytest.mark.torch


@pytest.mark.parametrize("name", ["ssdlite_parcnet_s", "deeplabv3_parcnet_s"])
def test_keys_outputs_and_activations_are_those_of_the_authors_code(name):
    model = models.create(name)
    assert_official_keys(model, name)
    assert len(assert_golden(model, name, models.info(name).resolution)) >= 3
    known = models.info(name)
    assert known.parameters == known.official_parameters


@pytest.mark.parametrize("name", ["ssdlite_parcnet_s", "deeplabv3_parcnet_s"])
def test_checkpoints_of_the_authors_hold_one_block_twice(name):
    model, _ = models.prepare(name, seed=4)
    state = model.state_dict()
    block = "encoder.layer_5.0."
    twin = {
        f"encoder.residual.{key.removeprefix(block)}": value
        for key, value in state.items()
        if key.startswith(block)
    }
    assert len(twin) == 18
    other = models.create(name)
    models.load_official(other, {**state, **twin})
    for key, value in other.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_every_map_of_the_detector_gives_its_anchors():
    model = models.create("ssdlite_parcnet_s", classes=3)
    for height, width in ((320, 320), (192, 256), (100, 75)):
        scores, boxes = model(torch.randn(2, 3, height, width))
        anchors = 4  # of the one place that sees all
        for stride in (16, 32, 64, 128, 256):
            anchors += 6 * -(-height // stride) * -(-width // stride)
        assert scores.shape == (2, anchors, 3)
        assert boxes.shape == (2, anchors, 4)


def test_anchors_of_a_map_go_row_by_row():
    model = models.create("ssdlite_parcnet_s", classes=3)
    head = model.ssd_heads[5]  # one 1x1 convolution from 64 channels
    x = torch.randn(1, 64, 2, 3)
    boxes, scores = head(x)
    raw = head.loc_cls_layer(x)[0]
    for place, (row, column) in enumerate((r, c) for r in range(2) for c in range(3)):
        fields = raw[:, row, column].reshape(4, 7)
        assert torch.equal(boxes[0, 4 * place : 4 * place + 4], fields[:, :4])
        assert torch.equal(scores[0, 4 * place : 4 * place + 4], fields[:, 4:])


def test_segmentation_has_the_images_size_at_multiples_of_16():
    model = models.create("deeplabv3_parcnet_s", classes=3)
    assert model(torch.randn(1, 3, 64, 96)).shape == (1, 3, 64, 96)
    assert model(torch.randn(2, 3, 65, 90)).shape == (2, 3, 80, 96)


def test_only_the_pyramid_is_dilated():
    model = models.create("deeplabv3_parcnet_s")
    dilated = {
        name: module.dilation
        for name, module in model.named_modules()
        if getattr(module, "dilation", (1, 1)) != (1, 1)
    }
    prefix = "seg_head.aspp.aspp_layer.convs"
    assert dilated == {f"{prefix}.{k + 1}.block.conv": (r, r) for k, r in enumerate(RATES)}


@pytest.mark.parametrize("name", ["ssdlite_parcnet_s", "deeplabv3_parcnet_s"])
def test_other_shapes_are_refused(name):
    with pytest.raises(InputError, match=r"takes inputs of shape \(B, 3, H, W\), not \(3, 64, 64"):
        models.create(name)(torch.zeros(3, 64, 64))
