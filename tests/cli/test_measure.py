"""Measuring: statistics, interleaving, agreement of peers, failures."""

from __future__ import annotations

import csv
import io
import json
import os
import signal

import numpy as np
import pytest

from parc_hw import measure
from parc_hw.errors import MeasurementError

SHAPE = (1, 3, 224, 224)


def job(**changes):
    options = {
        "runtime": "torch",
        "threads": 1,
        "source": "parc_convnext_xt",
        "shapes": (SHAPE,),
        "seed": 3,
    }
    return measure.Job(**{**options, **changes})


def series(times, **changes):
    return measure.Series(job=job(**changes), times_s=times, rounds=2, max_difference=0.0)


def test_median_and_spread_are_order_statistics():
    one = series((5.0, 1.0, 4.0, 2.0, 3.0))
    assert one.median_s == 3.0
    np.testing.assert_allclose([one.p10_s, one.p90_s], np.quantile([1, 2, 3, 4, 5], [0.1, 0.9]))


def test_json_and_csv_hold_the_same_rows():
    both = [series((1.0, 2.0, 3.0)), series((4.0, 4.0), runtime="onnxruntime", threads=2)]
    document = json.loads(measure.to_json(both, model="m"))
    rows = list(csv.DictReader(io.StringIO(measure.to_csv(both))))
    assert [row["runtime"] for row in rows] == ["torch", "onnxruntime"]
    for row, entry in zip(rows, document["series"], strict=True):
        assert {key: str(value) for key, value in entry.items()} == row
    assert document["series"][1]["relative_to_first"] == 2.0
    assert document["series"][1]["runs"] == 2
    assert document["machine"]["cores"] >= 1
    assert document["model"] == "m"


def test_workers_take_turns(monkeypatch):
    """Each round asks every worker once, in the same order: that is what interleaving means."""
    asked = []

    class Worker:
        def __init__(self, name):
            self.name = name

        def ask(self, what, argument):
            if what == "output":
                return [np.zeros(3, np.float32)]
            asked.append(self.name)
            return [0.1] * argument

    import contextlib

    monkeypatch.setattr(measure, "_worker", lambda one: contextlib.nullcontext(Worker(one.runtime)))
    results = measure.measure([job(), job(runtime="onnxruntime")], seconds=0.5)
    rounds = asked[4:]  # after two requests for warm-up from each
    assert rounds == ["torch", "onnxruntime"] * (len(rounds) // 2)
    assert len(rounds) // 2 == results[0].rounds >= 5
    assert all(len(one.times_s) == 2 * one.rounds for one in results)  # 0.25 s of 0.1 s runs


@pytest.mark.torch
def test_peers_compute_the_same_numbers(tmp_path):
    file = tmp_path / "m.onnx"
    measure.export_onnx("parc_convnext_xt", file, shape=SHAPE, seed=3)
    results = measure.measure([job(), job(runtime="onnxruntime", source=str(file))], seconds=0.2)
    assert results[1].max_difference < 1e-4
    assert all(0 < one.p10_s <= one.median_s <= one.p90_s for one in results)


def test_a_peer_that_cannot_start_says_why(tmp_path):
    with pytest.raises(MeasurementError, match=r"onnxruntime with 1 threads failed on .*none.onnx"):
        measure.measure(
            [job(runtime="onnxruntime", source=str(tmp_path / "none.onnx"))], seconds=0.1
        )


def test_a_peer_that_dies_is_named():
    with measure._worker(job(runtime="export")) as worker:
        os.kill(worker._process.pid, signal.SIGKILL)
        with pytest.raises(MeasurementError, match=r"ended with status -9 in the middle of"):
            worker.ask("output", None)


def test_no_worker_outlives_its_block():
    with measure._worker(job(runtime="export")) as worker:
        process = worker._process
        assert process.poll() is None
    assert process.poll() is not None


def test_bench_refuses_emulated_targets(cli, fake_bundle, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr(fake_bundle, "device", SimpleNamespace(name="rk3288", runs_here=False))
    outcome = cli("bench", "b")
    assert outcome.code == 3
    assert "times under qemu mean nothing" in outcome.err


def test_bench_writes_json_and_csv_and_prints_a_table(cli, fake_bundle, monkeypatch, tmp_path):
    asked = []

    def fake(jobs, *, seconds, progress):
        asked.extend(jobs)
        return [
            measure.Series(job=one, times_s=(0.01 * k, 0.01 * k), rounds=5, max_difference=0.0)
            for k, one in enumerate(jobs, 1)
        ]

    monkeypatch.setattr(measure, "measure", fake)
    monkeypatch.setattr(measure, "export_onnx", lambda *a, **k: None)
    monkeypatch.setattr(
        fake_bundle,
        "manifest",
        {**fake_bundle.manifest, "source": {"model": "parc_convnext_xt"}},
    )
    files = [tmp_path / "r.json", tmp_path / "r.csv"]
    outcome = cli("bench", "b", "--threads", 1, "--threads", 2, "-o", files[0], "-o", files[1])
    assert outcome.code == 0, outcome.err
    assert [(one.runtime, one.threads) for one in asked] == [
        (runtime, threads) for threads in (1, 2) for runtime in ("parc_hw", "torch", "onnxruntime")
    ]
    assert [row["runtime"] for row in json.loads(files[0].read_text())["series"]][:1] == ["parc_hw"]
    assert files[1].read_text().startswith("runtime,threads,median_s")
    assert "2.00" in outcome.out  # the second runtime takes twice the first's time
    assert "5 interleaved rounds" in outcome.out


def test_bench_says_which_file_types_it_writes(cli, tmp_path):
    outcome = cli("bench", "b", "-o", tmp_path / "r.txt")
    assert outcome.code == 2
    assert ".json or .csv" in outcome.err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("untrained: filled from seed 12", (12, False)),
        ("weights from w.pt", (3, True)),
        ("trained weights shipped with parc_hw", (3, False)),
    ],
)
def test_peers_get_the_weights_of_the_bundle_where_they_can(text, expected):
    from parc_hw.cli.bench import _weights
    from parc_hw.cli.session import Session

    assert _weights(Session(seed=3), text) == expected
