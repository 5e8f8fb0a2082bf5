"""Are the canvas networks what they claim: small, of few operators, placed by PE, and accurate?"""

from __future__ import annotations

import importlib.util
import json
import math

import numpy as np
import pytest
import torch
from safetensors import safe_open

from parc_hw.errors import BundleError, InputError
from parc_hw.models import canvas
from parc_hw.models.canvas import NAMES, create_canvas, shipped_weights
from parc_hw.models.canvas_data import canvases
from parc_hw.models.canvas_train import TEST_CANVASES, TEST_SEEDS, measure
from parc_hw.models.proportion import wilson
from parc_hw.nn import ParC

pytestmark = pytest.mark.torch

PLAIN = {"convolution", "conv2d", "layer_norm", "linear", "gelu", "mul", "add", "permute"}
PLAIN |= {"mean", "chunk", "split", "getitem", "cat", "parc", "reshape", "view"}


def stated():
    path = shipped_weights("parc_canvas").parent / "accuracy.json"
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", NAMES)
def test_the_exported_graph_holds_only_the_operators_that_the_compiler_promises(name):
    network = create_canvas(name)
    program = torch.export.export(network, (torch.zeros(1, 1, 112, 112),))
    calls = [n for n in program.graph.nodes if n.op == "call_function"]
    used = {getattr(n.target, "__name__", str(n.target)).partition(".")[0] for n in calls}
    assert used <= PLAIN
    parcs = sum(n.target is torch.ops.parc_hw.parc.default for n in calls)
    assert parcs == (10 if name == "parc_canvas" else 0)  # two in each of five blocks


def test_every_block_mixes_along_h_and_along_w_at_28_14_and_7_points():
    network = create_canvas("parc_canvas")
    layers = [m for m in network.modules() if isinstance(m, ParC)]
    assert [(m.axis.value, m.length) for m in layers] == [
        (axis, length) for length in (28, 14, 14, 7, 7) for axis in "HW"
    ]
    assert not any(isinstance(m, ParC) for m in create_canvas("conv_canvas").modules())
    seen = []
    for layer in layers:
        layer.register_forward_pre_hook(lambda m, args: seen.append((m.length, args[0].shape[2:])))
    network(torch.zeros(1, 1, 112, 112))
    assert all(tuple(extent) == (length, length) for length, extent in seen)


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_are_under_one_megabyte_of_float32_and_say_how_they_were_made(name):
    path = shipped_weights(name)
    assert path.stat().st_size < 1_000_000
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        dtypes = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    assert dtypes == {np.dtype(np.float32)}
    assert metadata["model"] == name
    assert f"--seed {metadata['seed']} train {name}" in metadata["command"]
    record = next(
        r for r in stated()["networks"] if r["name"] == name and r["weights_bytes"] is not None
    )
    assert metadata["accuracy"].startswith(f"{record['accuracy']:.4f} ")
    assert (int(metadata["seed"]), int(metadata["epochs"])) == (record["seed"], record["epochs"])
    assert path.stat().st_size == record["weights_bytes"]


@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_reach_the_stated_accuracy(name):
    record = next(r for r in stated()["networks"] if r["name"] == name and r["weights_bytes"])
    p = record["accuracy"]
    correct, tested = measure(create_canvas(name), TEST_SEEDS[:1])
    # Binomial, four deviations, and one half for the count's steps.
    assert abs(correct - p * tested) <= 4 * math.sqrt(tested * p * (1 - p)) + 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_shipped_weights_give_the_stated_count_on_all_test_canvases(name):
    record = next(r for r in stated()["networks"] if r["name"] == name and r["weights_bytes"])
    correct, tested = measure(create_canvas(name), TEST_SEEDS)
    assert tested == record["tested"] == len(TEST_SEEDS) * TEST_CANVASES
    # Another processor rounds otherwise; near ties may turn, one canvas in a thousand at most.
    assert abs(correct - record["correct"]) <= tested / 1000


def test_stated_accuracies_are_consistent_and_of_at_least_20_000_canvases():
    networks = stated()["networks"]
    assert [(r["name"], r["position_embedding"]) for r in networks] == [
        ("parc_canvas", True),
        ("parc_canvas", False),
        ("conv_canvas", False),
    ]
    for record in networks:
        assert record["tested"] >= 20_000
        assert record["accuracy"] == record["correct"] / record["tested"]
        assert tuple(record["interval"]) == pytest.approx(
            wilson(record["correct"], record["tested"])
        )


def test_the_table_in_the_docs_is_the_one_that_the_records_make(repository):
    spec = importlib.util.spec_from_file_location(
        "canvas_accuracy", repository / "tools" / "canvas_accuracy.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    page = (repository / "docs" / "accuracy.md").read_text()
    assert f"{tool.BEGIN}\n{tool.table(stated())}\n{tool.END}" in page


def test_without_position_embedding_a_turned_torus_changes_no_answer_and_with_it_does():
    """Circular layers alone cannot know where things are: only the embedding tells."""
    images = torch.from_numpy(canvases("test", 32, 0)[0])
    turned = torch.roll(images, (48, 32), dims=(2, 3))  # whole steps of the last stage, 16 pixels
    torch.manual_seed(0)
    blind = create_canvas("parc_canvas", pretrained=False, position_embedding=False).double()
    with torch.no_grad():
        y, z = blind(images.double()), blind(turned.double())
    torch.testing.assert_close(z, y, rtol=0, atol=1e-10 * float(y.abs().max()))
    placed = create_canvas("parc_canvas")
    with torch.no_grad():
        y, z = placed(images), placed(turned)
    assert (y.argmax(1) != z.argmax(1)).any()


def test_the_answer_follows_the_place_when_two_digits_change_places():
    """Same glyphs, other places: the network answers with the digit now nearest the corner."""
    network = create_canvas("parc_canvas")
    images, _ = canvases("test", 200, 1)
    turned = np.ascontiguousarray(images[:, :, :, ::-1])  # mirrored left to right
    with torch.no_grad():
        before = network(torch.from_numpy(images)).argmax(1)
        after = network(torch.from_numpy(turned)).argmax(1)
    assert (before != after).float().mean() > 0.3


def test_a_state_dict_round_trip_restores_every_logit():
    x = torch.from_numpy(canvases("test", 2, 0)[0])
    source = create_canvas("parc_canvas")
    target = create_canvas("parc_canvas", pretrained=False)
    assert not torch.equal(source(x), target(x))
    target.load_state_dict(source.state_dict())
    assert torch.equal(source(x), target(x))
    assert not source.training
    assert not target.training


def test_networks_that_do_not_exist_are_refused():
    with pytest.raises(InputError, match=r"unknown canvas network 'park_canvas'.*Did you mean"):
        create_canvas("park_canvas")
    with pytest.raises(InputError, match="conv_canvas has no position embedding to leave out"):
        create_canvas("conv_canvas", pretrained=False, position_embedding=False)
    with pytest.raises(InputError, match=r"no weights are shipped .* pretrained=False"):
        create_canvas("parc_canvas", position_embedding=False)


@pytest.mark.parametrize("damage", ["missing", "truncated", "other"])
def test_damaged_shipped_weights_are_named(damage, tmp_path, monkeypatch):
    path = tmp_path / "parc_canvas.safetensors"
    if damage == "truncated":
        path.write_bytes(shipped_weights("parc_canvas").read_bytes()[:5000])
    if damage == "other":
        path.write_bytes(shipped_weights("conv_canvas").read_bytes())
    monkeypatch.setattr(canvas, "shipped_weights", lambda name: path)
    with pytest.raises(BundleError, match=r"parc_canvas.safetensors are missing or damaged"):
        create_canvas("parc_canvas")
