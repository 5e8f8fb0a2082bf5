"""Does training learn, repeat itself bit by bit, and write its file whole or not at all?"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open

from parc_hw.errors import InputError
from parc_hw.models import canvas_train
from parc_hw.models.canvas import create_canvas
from parc_hw.models.canvas_data import canvases
from parc_hw.models.canvas_train import measure, train, with_sorted_header
from parc_hw.models.proportion import wilson

pytestmark = pytest.mark.torch


@pytest.fixture
def tiny(monkeypatch):
    """Epochs of one batch and a test of 20: seconds, not minutes."""
    monkeypatch.setattr(canvas_train, "EPOCH_CANVASES", 32)
    monkeypatch.setattr(canvas_train, "TEST_CANVASES", 20)


def run(name, output, **options):
    return train(name, output=output, **{"seed": 5, "epochs": 1, "test_seeds": (0,), **options})


@pytest.mark.parametrize("name", ["parc_canvas", "conv_canvas"])
def test_equal_arguments_write_equal_bytes_and_another_seed_other_ones(name, tiny, tmp_path):
    first, second, other = (tmp_path / f"{n}.safetensors" for n in ("a", "b", "c"))
    result = run(name, first)
    torch.manual_seed(99)  # the caller's generator is not what decides
    run(name, second)
    run(name, other, seed=6)

    def tensors(path):
        with safe_open(path, framework="numpy") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118

    a, c = map(tensors, (first, other))
    assert with_sorted_header(second.read_bytes()) == second.read_bytes()
    assert first.read_bytes().replace(b"a.safetensors", b"b.safetensors") == second.read_bytes()
    assert a.keys() == c.keys()
    assert any(a[key].tobytes() != c[key].tobytes() for key in a)
    assert (result.epochs, result.seed, result.tested) == (1, 5, 20)


def test_the_written_weights_are_those_that_were_tested(tiny, tmp_path):
    path = tmp_path / "weights.safetensors"
    result = run("parc_canvas", path, test_seeds=(3, 4))
    network = create_canvas("parc_canvas", pretrained=False)
    with safe_open(path, framework="pt") as file:
        network.load_state_dict({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        metadata = file.metadata()
    assert measure(network, (3, 4), count=20) == (result.correct, 40)
    assert metadata["command"] == (
        "parc-hw --seed 5 train parc_canvas --epochs 1 -o weights.safetensors"
    )
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]


def test_training_leaves_the_callers_random_generator_alone(tiny):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run("conv_canvas", None)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("name", ["parc_canvas", "conv_canvas"])
def test_the_loss_falls_on_canvases_seen_again(name, tiny, monkeypatch):
    """The same 32 canvases every epoch: gradients that are right learn them by heart."""
    fixed = canvases("train", 32, 0, digits=1)
    monkeypatch.setattr(canvas_train, "canvases", lambda *_, **__: fixed)
    monkeypatch.setattr(canvas_train, "WARM_UP", 10)
    result = run(name, None, epochs=24)
    assert result.losses[0] > 2.2  # log 10 = 2.30: it begins by guessing
    assert result.losses[-1] < 0.7 * result.losses[0]


def test_training_without_position_embedding_has_none(tiny, tmp_path):
    path = tmp_path / "blind.safetensors"
    result = run("parc_canvas", path, position_embedding=False)
    assert not result.position_embedding
    with safe_open(path, framework="numpy") as file:
        assert not [key for key in file.keys() if key.endswith("pe")]  # noqa: SIM118


def test_progress_is_told_in_two_stages(tiny):
    calls = []
    run("conv_canvas", None, epochs=2, progress=lambda *args: calls.append(args[:3]))
    assert calls == [("train", 0, 2), ("train", 1, 2), ("train", 2, 2), ("test", 1, 1)]


def test_an_interrupted_training_writes_nothing(tiny, tmp_path):
    def stop(stage, done, total, message):
        if done:
            raise KeyboardInterrupt

    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"what was there before")
    with pytest.raises(KeyboardInterrupt):
        run("conv_canvas", path, progress=stop)
    assert path.read_bytes() == b"what was there before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_write_leaves_no_half_of_a_file(tiny, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(canvas_train.Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        run("conv_canvas", tmp_path / "weights.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet50"}, r"unknown canvas network 'resnet50': one of parc_canvas"),
        ({"epochs": 0}, r"epochs must be a whole number of at least 1, not 0"),
        ({"epochs": 1.5}, r"epochs must be .* not 1.5"),
        ({"seed": -1}, r"seed must be a whole number of at least 0, not -1"),
        ({"test_seeds": ()}, r"test_seeds must hold at least one seed"),
        ({"output": "no/such/directory/w.safetensors"}, r"cannot write no/such/directory/w"),
        ({"output": "."}, r"cannot write \.: give the name"),
    ],
)
def test_trainings_that_cannot_end_well_are_refused_before_they_start(options, message):
    def never(*_):
        raise AssertionError("the training started")

    arguments = {"name": "conv_canvas", "output": None, "seed": 0, "epochs": 1, **options}
    with pytest.raises(InputError, match=message):
        train(**arguments, progress=never)


def test_wilson_is_the_textbook_interval():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for correct, total, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        assert wilson(correct, total) == pytest.approx((low, high), abs=5e-5)


def test_wilson_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    for p in (0.05, 0.5, 0.95):
        draws = rng.binomial(1000, p, size=2000)
        inside = [low <= p <= high for low, high in (wilson(int(k), 1000) for k in draws)]
        # Coverage of 95 % within 1.5 % of lattice effects and five deviations of 2000 draws.
        assert abs(np.mean(inside) - 0.95) <= 0.015 + 5 * (0.95 * 0.05 / 2000) ** 0.5


@pytest.mark.parametrize(("correct", "total"), [(0, 0), (-1, 5), (6, 5)])
def test_what_is_no_proportion_has_no_interval(correct, total):
    with pytest.raises(InputError, match=f"no proportion: {correct} of {total}"):
        wilson(correct, total)
