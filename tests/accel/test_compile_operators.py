"""Has every operator of the integer rule the words of `fixedpoint.integer` on every machine?"""

import numpy as np
import pytest
from accelerated import OPERATORS, compiled_network, corner_images, outputs, quantised

from parc_hw.accel.description import load_description

pytestmark = pytest.mark.tvm

SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("fpga-small", "fft-heavy")]


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("machine", ["edge-npu", "tiny", *SLOW])
def test_a_program_gives_the_words_of_the_rule(machine, operator, bits):
    model = quantised(OPERATORS[operator](), bits)
    compiled = compiled_network(model, machine)
    assert all(layer.where != "host" for layer in compiled.layers)
    images = corner_images(model)
    found = outputs(model, compiled, load_description(machine), images)
    wanted = model.run(images).raw.reshape(len(images), -1)
    assert np.count_nonzero(found != wanted) == 0
