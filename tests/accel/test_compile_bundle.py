"""Is a program on disk whole, checked and equal to the fixed-point simulation, also by commands?"""

import json

import numpy as np
import pytest
from accelerated import MAP, OPERATORS, compiled_network, layer, network, quantised, random

from parc_hw.accel.bundle import AcceleratorBundle, write_program
from parc_hw.accel.description import load_description
from parc_hw.accel.estimate import estimate_program, plot_roofline
from parc_hw.cli.main import main
from parc_hw.errors import BundleError, InputError

pytestmark = pytest.mark.tvm

NPU = load_description("edge-npu")
SOURCE = {"model": "small", "weights": "made by a test", "dtype": "int8", "records": []}


def write(path, model, **rest):
    compiled = compiled_network(model, "edge-npu")
    return write_program(path, compiled, model, NPU, source=SOURCE, tools={}, **rest)


def images(model, count=2):
    return random(5).standard_normal((count, *model.network.input_shape)).astype(np.float32)


def hosted():
    """A network with a step that the machine has no instruction for: every other column."""
    cut = (slice(None), slice(None), slice(0, 8, 2), slice(None))
    return network(
        layer("slice", (MAP[0], 4, MAP[2]), attrs={"index": cut}),
        layer("linear", (MAP[0], 4, 5), (1,), weight=(MAP[2], 5), bias=(5,)),
    )


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    model = quantised(OPERATORS["halves"](), 8)
    return model, write(tmp_path_factory.mktemp("program") / "halves", model)


def test_a_bundle_gives_the_words_of_the_simulation(bundle):
    model, opened = bundle
    x = images(model)
    logits, wanted = opened.run(x), model.run(x)
    assert logits.format == wanted.format
    assert (logits.raw == wanted.raw).all()


def test_two_bundles_of_one_network_are_equal_byte_for_byte(bundle, tmp_path):
    model, opened = bundle
    again = write(tmp_path / "again", model)
    for name in ("program.bin", "manifest.json"):
        assert (again.path / name).read_bytes() == (opened.path / name).read_bytes()


def test_host_steps_are_in_the_bundle_and_listed_with_their_share(tmp_path):
    model = quantised(hosted(), 8)
    opened = write(tmp_path / "hosted", model)
    x = images(model)
    assert (opened.run(x).raw == model.run(x).raw).all()
    estimate = estimate_program(opened)
    (step,) = [each for each in estimate.layers if each.source == "estimated"]
    assert step.reason == "it takes every other word"
    assert 0 < step.cycles <= estimate.cycles
    assert estimate.host_cycles > 0


def test_the_layers_of_an_estimate_add_up_to_the_whole(bundle):
    estimate = estimate_program(bundle[1])
    assert sum(each.cycles for each in estimate.layers) == estimate.cycles
    assert estimate.milliseconds == pytest.approx(estimate.cycles / NPU.clock.hz * 1e3)
    assert {each.source for each in estimate.layers} == {"simulated"}


def test_the_roofline_is_drawn(bundle, tmp_path):
    estimate = estimate_program(bundle[1])
    plot_roofline(tmp_path / "roof.png", estimate, NPU)
    assert (tmp_path / "roof.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="accepted are files that end in"):
        plot_roofline(tmp_path / "roof.txt", estimate, NPU)


def test_a_bundle_is_not_overwritten_unless_forced(bundle, tmp_path):
    model, _ = bundle
    write(tmp_path / "one", model)
    with pytest.raises(BundleError, match="exists already and is not overwritten"):
        write(tmp_path / "one", model)
    write(tmp_path / "one", model, force=True)


def test_what_is_no_bundle_or_a_broken_one_is_refused(bundle, tmp_path):
    model, _ = bundle
    with pytest.raises(BundleError, match="holds no accelerator program"):
        AcceleratorBundle.open(tmp_path)
    root = write(tmp_path / "broken", model).path
    manifest = json.loads((root / "manifest.json").read_text())

    def rewrite(**changes):
        (root / "manifest.json").write_text(json.dumps({**manifest, **changes}))

    rewrite(format="parc_hw bundle")
    with pytest.raises(BundleError, match="is not an accelerator program"):
        AcceleratorBundle.open(root)
    rewrite(schema=99)
    with pytest.raises(BundleError, match="manifest schema 99"):
        AcceleratorBundle.open(root)
    rewrite()
    (root / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="not valid JSON"):
        AcceleratorBundle.open(root)
    rewrite()
    data = bytearray((root / "program.bin").read_bytes())
    data[200] ^= 1
    (root / "program.bin").write_bytes(bytes(data))
    with pytest.raises(BundleError, match=r"is corrupt: program\.bin"):
        AcceleratorBundle.open(root)
    (root / "program.bin").unlink()
    with pytest.raises(BundleError, match=r"is incomplete: program\.bin"):
        AcceleratorBundle.open(root)


def test_a_program_for_another_machine_is_refused(bundle, tmp_path):
    model, _ = bundle
    opened = write(tmp_path / "other", model)
    opened.machine = load_description("tiny")
    with pytest.raises(InputError, match="made for another description"):
        _ = opened.program


def test_run_and_estimate_are_commands(bundle, tmp_path, capsys):
    model, opened = bundle
    np.save(tmp_path / "x.npy", images(model, 1))
    words = tmp_path / "y.npy"
    arguments = ["accel", "run", str(opened.path), "--input", str(tmp_path / "x.npy")]
    assert main([*arguments, "-o", str(words)]) == 0
    assert (np.load(words) == model.run(np.load(tmp_path / "x.npy")).raw).all()
    capsys.readouterr()
    assert main(["--json", "accel", "estimate", str(opened.path)]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["source"] == "simulated"
    assert {each["source"] for each in data["layers"]} == {"simulated"}
    assert main(["accel", "estimate", str(opened.path)]) == 0
    assert "cycles simulated, 0 estimated for the host" in capsys.readouterr().out


def test_a_trace_names_every_layer_that_computes(bundle, tmp_path, capsys):
    model, opened = bundle
    np.save(tmp_path / "x.npy", images(model, 1))
    run = ["accel", "run", str(opened.path), "--input", str(tmp_path / "x.npy")]
    path = tmp_path / "trace.json"
    assert main([*run, "--trace", str(path)]) == 0
    events = [each for each in json.loads(path.read_text())["traceEvents"] if each["ph"] == "X"]
    computed = {each["name"] for each in opened.manifest["layers"] if each["where"] == "machine"}
    assert {each["cat"] for each in events} == computed
    assert max(each["ts"] + each["dur"] for each in events) == opened.simulate(values=False).cycles
    capsys.readouterr()
    assert main([*run, "--trace", str(tmp_path / "trace.txt")]) == 2
    assert "a trace is written as .json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "edge-npu"], "--dtype is missing. Accepted for edge-npu: int8, int16"),
        (["--target", "edge-npu", "--dtype", "f32"], "is not of an accelerator"),
        (["--target", "edge-npu", "--dtype", "int8", "--name", "x"], "--name has no meaning"),
        (["--target", "edge-npu", "--dtype", "int8", "--plan", "fft"], "only the direct plan"),
        (["--target", "host", "--dtype", "int8"], "libraries compute in f32"),
    ],
)
def test_options_that_do_not_belong_together_are_refused(arguments, message, tmp_path, capsys):
    assert main(["compile", "parc_canvas", "-o", str(tmp_path / "x"), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.torch
def test_parc_canvas_on_edge_npu_equals_the_simulation(tmp_path, capsys):
    out, want = tmp_path / "logits.npy", tmp_path / "want.npy"
    root = tmp_path / "npu"
    canvas = "examples/canvas.npy"
    assert (
        main(
            ["compile", "parc_canvas", "--target", "edge-npu", "--dtype", "int16", "-o", str(root)]
        )
        == 0
    )
    assert main(["accel", "run", str(root), "--input", canvas, "-o", str(out)]) == 0
    simulated = ["sim", "model", "parc_canvas", "--dtype", "int16", "--input", canvas]
    assert main([*simulated, "-o", str(want)]) == 0
    assert (np.load(out) == np.load(want)).all()
