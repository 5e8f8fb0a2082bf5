"""`.pt2` files: what is read, and that nothing in a file ever runs."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from relax_vm import operators, run_vm
from torch import nn

from parc_hw.errors import InputError, UnsupportedError
from parc_hw.importers import import_exported, import_model, reference_values
from parc_hw.nn import ParC

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

SHAPE = (1, 4, 6, 5)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.mixer = ParC(4, 6, "H")
        self.conv = nn.Conv2d(4, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, x):
        return {"features": self.norm(self.conv(self.mixer(x))), "sum": x.sum(1)}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = Net().eval()
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    torch.export.save(torch.export.export(model, (torch.zeros(SHAPE),)), path)
    return model, path


def test_a_file_gives_the_models_numbers(saved):
    model, path = saved
    imported = import_model(path)
    assert operators(imported.module)["parc"] == 1
    assert [tensor.name for tensor in imported.outputs] == ["features", "sum"]
    assert {s.module_path for s in imported.sources.values()} >= {"mixer", "conv", "norm"}
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    with torch.no_grad():
        wanted = [value.numpy() for value in model(torch.from_numpy(x)).values()]
    outputs, _ = reference_values(imported, [x])
    for source, built, theirs in zip(outputs, run_vm(imported.module, x), wanted, strict=True):
        np.testing.assert_allclose(source, theirs, rtol=0, atol=1e-6)
        assert np.abs(built - theirs).max() <= 200 * 2.0**-24 * np.abs(theirs).max()


def test_the_files_own_size_is_the_only_one(saved):
    _, path = saved
    assert import_exported(path, [SHAPE]).inputs[0].shape == SHAPE
    with pytest.raises(InputError, match=r"exported for inputs of shapes \[\(1, 4, 6, 5\)\], not"):
        import_exported(path, [(2, 4, 6, 5)])


def test_open_sizes_are_refused(tmp_path):
    batch = torch.export.Dim("b")
    program = torch.export.export(
        nn.Conv2d(4, 4, 3), (torch.zeros(2, 4, 6, 5),), dynamic_shapes=({0: batch},)
    )
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(UnsupportedError, match=r"m\.pt2: the program was exported with open sizes"):
        import_exported(tmp_path / "m.pt2")


# -- hostile files -------------------------------------------------------------------------


class Touch:
    """Unpickling it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def rewritten(source, target, change):
    """A copy of an archive with sound checksums and changed entries."""
    with zipfile.ZipFile(source) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


def entry(entries, end):
    return next(name for name in entries if name.endswith(end))


def in_json(end, change):
    def apply(entries):
        name = entry(entries, end)
        content = json.loads(entries[name])
        change(content)
        entries[name] = json.dumps(content).encode()

    return apply


def model_json(change):
    return in_json("models/model.json", change)


def first_node(program):
    return program["graph_module"]["graph"]["nodes"][0]


def pickled_weights(marker):
    def change(entries):
        config = entry(entries, "model_weights_config.json")
        content = json.loads(entries[config])
        weight = next(iter(content["config"].values()))
        weight["use_pickle"] = True
        entries[config] = json.dumps(content).encode()
        path = config.rpartition("/")[0] + "/" + weight["path_name"]
        entries[path] = pickle.dumps(Touch(marker))

    return change


def pickled_constant(prefix):
    def make(marker):
        def change(entries):
            config = entry(entries, "model_constants_config.json")
            payload = {"path_name": f"{prefix}0", "is_param": False, "use_pickle": True}
            content = {"config": {"c": {**payload, "tensor_meta": None}}}
            entries[config] = json.dumps(content).encode()
            entries[config.rpartition("/")[0] + f"/{prefix}0"] = pickle.dumps(Touch(marker))

        return change

    return make


def pickled_samples(marker):
    def change(entries):
        buffer = io.BytesIO()
        torch.save(Touch(marker), buffer)
        entries[entry(entries, "sample_inputs/model.pt")] = buffer.getvalue()

    return change


def pickled_legacy(marker):
    def change(entries):
        buffer = io.BytesIO()
        torch.save(Touch(marker), buffer)
        prefix = entry(entries, "models/model.json").partition("/")[0]
        entries[f"{prefix}/data/weights/model.pt"] = buffer.getvalue()

    return change


def call(target):
    def make(marker):
        def change(program):
            node = first_node(program)
            node["target"] = target
            argument = {"as_string": f"touch {marker}"}
            node["inputs"] = [{"name": "a", "arg": argument, "kind": 1}]

        return model_json(change)

    return make


def code_in_expression(marker):
    text = f"__import__('pathlib').Path('{marker}').touch()"

    def change(program):
        graph = program["graph_module"]["graph"]
        meta = next(iter(graph["tensor_values"].values()))
        meta["sizes"][0] = {"as_expr": {"expr_str": text, "hint": None}}

    return model_json(change)


def code_in_name(marker):
    text = f"x); __import__('pathlib').Path('{marker}').touch(); (x"

    def apply(entries):
        name = entry(entries, "models/model.json")
        program = json.loads(entries[name])
        old = first_node(program)["outputs"][0]["as_tensor"]["name"]
        content = json.dumps(program).replace(json.dumps(old), json.dumps(text))
        entries[name] = content.encode()

    return apply


def code_in_guard(marker):
    text = f"__import__('pathlib').Path('{marker}').touch()"
    return model_json(lambda program: program.__setitem__("guards_code", [text]))


def imported_factory(marker):
    def change(program):
        signature = program["graph_module"]["module_call_graph"][0]["signature"]
        context = json.dumps({"default_factory_module": "antigravity", "default_factory_name": "x"})
        spec = {"type": "collections.defaultdict", "context": context, "children_spec": []}
        signature["out_spec"] = json.dumps([1, spec])

    return model_json(change)


HOSTILE = {
    "a pickled weight": (pickled_weights, InputError, "pickled object"),
    "a pickled tensor constant": (pickled_constant("tensor_"), InputError, "pickled object"),
    "a script object": (pickled_constant("custom_obj_"), InputError, "pickled object"),
    "an opaque object": (pickled_constant("opaque_obj_"), InputError, "pickled object"),
    "a shell command": (call("torch.os.system"), UnsupportedError, r"torch\.os\.system"),
    "a function of torch": (call("torch.hub.load"), UnsupportedError, r"torch\.hub\.load"),
    "an operator on files": (
        call("torch.ops.aten.from_file.default"), UnsupportedError, r"aten\.from_file",
    ),
    "another library's operator": (call("torch.ops.mine.act.default"), UnsupportedError, "mine"),
    "a way out of the operators": (
        call("torch.ops.aten.__class__.mro"), UnsupportedError, "no operator of ATen",
    ),
    "code in a size": (code_in_expression, UnsupportedError, "open sizes"),
    "code in a name": (code_in_name, InputError, "is not acceptable"),
    "a module to import": (imported_factory, InputError, "packed in a collections.defaultdict"),
}  # fmt: skip
HARMLESS = {  # what is never read
    "pickled sample inputs": pickled_samples,
    "pickled weights beside the plain ones": pickled_legacy,
    "code in a guard": code_in_guard,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_wants_to_run_code_is_refused(saved, tmp_path, name):
    make, error, message = HOSTILE[name]
    marker = tmp_path / "ran"
    path = rewritten(saved[1], tmp_path / "m.pt2", make(marker))
    with pytest.raises(error, match=message):
        import_exported(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", HARMLESS)
def test_parts_that_could_run_code_and_are_not_needed_are_not_read(saved, tmp_path, name):
    marker = tmp_path / "ran"
    path = rewritten(saved[1], tmp_path / "m.pt2", HARMLESS[name](marker))
    assert operators(import_exported(path).module)["parc"] == 1
    assert not marker.exists()


# -- damaged files -------------------------------------------------------------------------


def short_weight(entries):
    entries[entry(entries, "weight_0")] = b"1234"


def huge(program):
    graph = program["graph_module"]["graph"]
    meta = next(iter(graph["tensor_values"].values()))
    meta["sizes"][0] = {"as_int": 2**39}


def without(end):
    return lambda entries: entries.pop(entry(entries, end))


@pytest.mark.parametrize(
    "change, message",
    [
        (short_weight, "has only 4 bytes: the file is corrupt"),
        (model_json(huge), "has more than 268435456 elements"),
        (model_json(lambda p: p.pop("graph_module")), "truncated, corrupt or not a .pt2 file"),
        (without("archive_format"), "no archive of torch.export.save"),
        (without("models/model.json"), "holds 0 programs"),
        (without("weight_1"), "weight_1 is missing"),
    ],
)
def test_damaged_archives_are_refused(saved, tmp_path, change, message):
    path = rewritten(saved[1], tmp_path / "m.pt2", change)
    with pytest.raises(InputError, match=message):
        import_exported(path)


def test_files_that_are_no_archives(saved, tmp_path):
    path = tmp_path / "m.pt2"
    with pytest.raises(InputError, match="cannot be read: No such file"):
        import_exported(path)
    path.write_bytes(b"")
    with pytest.raises(InputError, match="is empty"):
        import_exported(path)
    path.write_bytes(saved[1].read_bytes()[:400])
    with pytest.raises(InputError, match=r"truncated, corrupt or not a \.pt2 file"):
        import_exported(path)
    path.write_bytes(saved[1].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"no archive of torch\.export\.save"):
        import_exported(path)
    torch.save(saved[0].state_dict(), path)
    with pytest.raises(InputError, match=r"It is a file of torch\.save, or its end is missing"):
        import_exported(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/archive_format", b"pt2" + bytes(2**20))
    with pytest.raises(InputError, match="are compressed or encrypted"):
        import_exported(path)


def test_weights_that_are_not_finite_are_named(tmp_path):
    model = nn.Linear(3, 4).eval()
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    torch.export.save(torch.export.export(model, (torch.zeros(1, 3),)), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="NaN or infinity in weight"):
        import_exported(tmp_path / "m.pt2")
