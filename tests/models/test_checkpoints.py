"""Checkpoint files: what is read, what is refused, and that nothing in them runs."""

import argparse
import os
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from parc_hw import models
from parc_hw.errors import InputError

pytestmark = pytest.mark.torch


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(4, 2)


def filled(value):
    net = Net()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(value)
    return net.state_dict()


def loaded(state_dict, **keywords):
    net = Net()
    entry = models.load_official(net, state_dict, **keywords)
    return entry, net


# -- finding the weights in what a training script saved -----------------------------------


@pytest.mark.parametrize(
    "wrap, entry",
    [
        (lambda s: s, ""),
        (lambda s: {"model": s, "epoch": 3}, "model"),
        (lambda s: {"state_dict": s, "optimizer": {}}, "state_dict"),
        (lambda s: {"checkpoint": 1, "model": {"state_dict": s}}, "model.state_dict"),
        (lambda s: {"model_ema": s}, "model_ema"),
        (lambda s: {"model": s, "model_ema": filled(9.0)}, "model"),
        (lambda s: {"state_dict": {f"module.{k}": v for k, v in s.items()}}, "state_dict"),
        (lambda s: {f"module._orig_mod.{k}": v for k, v in s.items()}, ""),
        (lambda s: OrderedDict(reversed(s.items())), ""),
    ],
)
def test_weights_are_found_where_training_scripts_put_them(wrap, entry):
    taken, net = loaded(wrap(filled(2.0)))
    assert taken == entry
    assert torch.equal(net.head.weight, torch.full((2, 4), 2.0))


def test_an_entry_can_be_chosen():
    checkpoint = {"model": filled(1.0), "model_ema": {"module": filled(9.0)}}
    taken, net = loaded(checkpoint, entry="model_ema")
    assert taken == "model_ema.module"
    assert net.head.weight[0, 0] == 9.0
    with pytest.raises(InputError, match=r"no dictionary 'ema'; it has model, model_ema"):
        loaded(checkpoint, entry="ema")


def test_half_and_double_weights_become_the_models_type():
    for dtype in (torch.float16, torch.float64, torch.bfloat16):
        state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in filled(0.5).items()}
        _, net = loaded(state)
        assert net.head.weight.dtype == torch.float32
        assert net.head.weight[0, 0] == 0.5


def test_a_missing_batch_counter_is_no_error():
    state = filled(1.0)
    del state["body.1.num_batches_tracked"]
    loaded(state)


def test_of_keys_that_a_checkpoint_holds_twice_the_models_own_win():
    class Aliased(Net):
        state_dict_aliases = {"tail.": "head."}  # noqa: RUF012

    both = filled(1.0) | {"tail.weight": torch.full((2, 4), 5.0)}
    net = Aliased()
    models.load_official(net, both)
    assert net.head.weight[0, 0] == 1.0

    alone = {k.replace("head.", "tail."): v for k, v in filled(7.0).items()}
    models.load_official(net, alone)
    assert net.head.weight[0, 0] == 7.0

    with pytest.raises(InputError, match=r"extra: tail\.weight \(2, 4\)"):
        models.load_official(Net(), both)


# -- weights that do not fit ---------------------------------------------------------------


def test_everything_that_is_wrong_is_listed_and_nothing_is_loaded():
    state = filled(3.0)
    del state["head.bias"], state["body.0.bias"]
    state["extra.weight"] = torch.zeros(1, 2)
    state["head.weight"] = torch.zeros(3, 4)
    state["body.1.weight"] = torch.full((4,), float("nan"))
    state["body.1.bias"] = [1.0] * 4
    net = Net()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(InputError) as caught:
        models.load_official(net, state)
    message = str(caught.value)
    assert message.splitlines()[0] == "the weights do not fit the model (6 problems):"
    for line in (
        "missing: head.bias (2,)",
        "missing: body.0.bias (4,)",
        "extra: extra.weight (1, 2)",
        "wrong shape: head.weight (3, 4), the model has (2, 4)",
        "NaN or infinity: body.1.weight",
        "not a tensor: body.1.bias is a list",
    ):
        assert f"\n  {line}" in message
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_named(value):
    state = filled(1.0)
    state["head.weight"][1, 2] = value
    with pytest.raises(InputError, match=r"\(1 problem\):\n  NaN or infinity: head\.weight"):
        loaded(state)
    net = Net()
    net.load_state_dict(state)
    with pytest.raises(InputError, match=r"NaN or infinity in head\.weight\."):
        models.check_finite(net)
    models.check_finite(Net())


@pytest.mark.parametrize(
    "content, message",
    [
        ({}, "holds no tensors; its keys are none"),
        ({"epoch": 3, "args": {}}, "holds no tensors; its keys are epoch, args"),
        ([1, 2], "the weights are a list"),
    ],
)
def test_a_checkpoint_without_weights_is_refused(content, message):
    with pytest.raises(InputError, match=message):
        loaded(content)


# -- files ---------------------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_arguments_and_scores_beside_the_weights_are_no_obstacle(tmp_path, zipped):
    path = tmp_path / "checkpoint.pth"
    beside = {
        "args": argparse.Namespace(lr=0.1, output=Path("/tmp")),
        "best": np.float64(76.5),
        "epoch": 300,
        "optimizer": torch.optim.SGD(Net().parameters(), lr=0.1).state_dict(),
    }
    torch.save({"model": filled(4.0), **beside}, path, _use_new_zipfile_serialization=zipped)
    content = models.read_checkpoint(path)
    assert content["epoch"] == 300
    taken, net = loaded(content)
    assert taken == "model"
    assert net.head.weight[0, 0] == 4.0


def test_safetensors_are_read(tmp_path):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(filled(2.5), path)
    _, net = loaded(models.read_checkpoint(path))
    assert net.head.weight[0, 0] == 2.5


class Hostile:
    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (self.trace,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_that_asks_to_run_code_is_refused_and_runs_nothing(tmp_path, zipped):
    trace = tmp_path / "ran"
    path = tmp_path / "hostile.pt"
    content = {"w": torch.zeros(1), "x": Hostile(str(trace))}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InputError, match=r"asks to import (posix|nt)\.mkdir, which could run code"):
        models.read_checkpoint(path)
    assert not trace.exists()


def test_a_whole_pickled_module_is_refused_with_what_to_do(tmp_path):
    path = tmp_path / "module.pt"
    torch.save(nn.Linear(2, 2), path)
    with pytest.raises(
        InputError, match=r"import torch\.nn\.modules\.linear\.Linear.*save `model\.state_dict\(\)`"
    ):
        models.read_checkpoint(path)


def whole_file(path, zipped=True):
    torch.save({"model": filled(1.0)}, path, _use_new_zipfile_serialization=zipped)
    return path.read_bytes()


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, zipped, part):
    path = tmp_path / "cut.pt"
    data = whole_file(path, zipped)
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(InputError, match=r"cut\.pt is truncated, corrupt or not a \.pt file: \d+"):
        models.read_checkpoint(path)


def test_a_flipped_bit_in_a_tensor_is_noticed(tmp_path):
    path = tmp_path / "flipped.pt"
    data = bytearray(whole_file(path))
    place = data.index(np.ones(3 * 4 * 9, np.float32).tobytes())  # body.0.weight
    data[place + 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(InputError, match=r"corrupt: the checksum of its entry .*data/\d+"):
        models.read_checkpoint(path)


@pytest.mark.parametrize(
    "name, data, message",
    [
        ("a.pt", b"", "is empty"),
        ("a.pth", b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS pointer"),
        ("a.pt", b"<!DOCTYPE html>", r"15 bytes that begin with b'<!DOCTYPE html>'"),
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}", "corrupt or not a .safetensors"),
        ("a.onnx", b"x", r"suffix '\.onnx'; accepted are \.pt, \.pth, \.safetensors"),
    ],
)
def test_files_of_another_kind_are_refused_with_what_was_seen(tmp_path, name, data, message):
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=message):
        models.read_checkpoint(path)


def test_a_missing_file_a_directory_and_a_bare_tensor_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.pt cannot be read: No such file"):
        models.read_checkpoint(tmp_path / "none.pt")
    (tmp_path / "folder.pt").mkdir()
    with pytest.raises(InputError, match=r"folder\.pt cannot be read: Is a directory"):
        models.read_checkpoint(tmp_path / "folder.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    with pytest.raises(InputError, match="holds a Tensor, not a dictionary of tensors"):
        models.read_checkpoint(tmp_path / "tensor.pt")
