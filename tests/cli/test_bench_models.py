"""Whole models: what is measured, what the figures say, what is written, what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from parc_hw import bench_models, bench_models_goals, measure, models
from parc_hw.bench_models import BASELINES, EVERYWHERE
from parc_hw.bench_models_goals import GOALS, OTHERS, Verdict
from parc_hw.errors import InputError, MeasurementError

MEDIANS = {"parc_hw": 8.0, "torch": 40.0, "onnxruntime": 10.0, "openvino": 9.0}


def case(model="mobilenetv2", threads=1, *, medians=MEDIANS, missing=(), **changes):
    return {
        "model": model,
        "threads": threads,
        "input": "1x3x224x224",
        "parameters": 100,
        "macs": 4 * 10**9,
        "rounds": 5,
        "measured": "2024-02-03T04:05:06+00:00",
        "peak_flops": 2e9 if threads == 1 else None,
        "compile_s": 12.0,
        "arena_bytes": 230,
        "live_peak_bytes": 200,
        "missing": list(missing),
        "rows": [
            {
                "runtime": runtime,
                "median_s": median,
                "min_s": median - 1,
                "p10_s": median,
                "p90_s": median,
                "runs": 7,
                "max_difference_std": 1e-6,
                "error_std": 3e-6 if runtime == "parc_hw" else 2e-6,
            }
            for runtime, median in medians.items()
        ],
        **changes,
    }


def pair(name="parc_mobilenetv2", parc_s=5.0, baseline_s=4.0, threads=1):
    baseline = next(one.baseline for one in BASELINES if one.parc == name)
    return {
        "parc": name,
        "baseline": baseline,
        "threads": threads,
        "parc_s": parc_s,
        "parc_min_s": parc_s,
        "baseline_s": baseline_s,
        "baseline_min_s": baseline_s,
        "rounds": 5,
        "measured": "2024-02-03T04:05:06+00:00",
    }


def document(*cases, pairs=(), counts=()):
    made = bench_models.new_document()
    return {**made, "cases": list(cases), "pairs": list(pairs), "counts": list(counts)}


def verdict(made, kind, model="", threads=1) -> Verdict:
    (found,) = (
        one
        for one in bench_models_goals.verdicts(made)
        if (one.goal.kind, one.goal.model, one.goal.threads) == (kind, model, threads)
    )
    return found


# ---------------------------------------------------------------- what is measured


def test_all_classifiers_of_the_zoo_are_measured_and_no_other_network():
    left_out = {"parc_canvas", "conv_canvas", "ssdlite_parcnet_s", "deeplabv3_parcnet_s"}
    assert set(bench_models.names()) == (set(models.names()) - left_out) | {EVERYWHERE}
    assert all(models.info(n).classes == 1000 for n in bench_models.names() if n != EVERYWHERE)


def test_models_are_measured_in_one_order_whatever_was_asked():
    assert bench_models.find_models(["resnet50", "convnext_xt"]) == ["convnext_xt", "resnet50"]
    assert bench_models.find_models([]) == list(bench_models.names())
    assert bench_models.find_pairs([]) == list(BASELINES)
    assert [p.baseline for p in bench_models.find_pairs(["parcnet_s"])] == ["mobilevit_s"]


def test_unknown_names_are_refused():
    with pytest.raises(
        InputError, match=r"'resnet5' is not a model that is measured. Did you mean"
    ):
        bench_models.find_models(["resnet50", "resnet5"])
    with pytest.raises(InputError, match=r"'parc_canvas' is not a model .*Accepted: parc_convnext"):
        bench_models.find_models(["parc_canvas"])
    with pytest.raises(InputError, match=r"'resnet50' is not in the table; accepted: parc_convn"):
        bench_models.find_pairs(["resnet50"])


@pytest.mark.torch
def test_parc_everywhere_has_no_depthwise_convolution_left():
    from torch import nn

    from parc_hw.nn import ParC

    model = bench_models.parc_everywhere(3)
    found = list(model.modules())
    assert sum(isinstance(m, ParC) for m in found) == 2 * 18  # blocks of depths 3, 3, 9, 3
    assert not any(isinstance(m, nn.Conv2d) and m.groups > 1 for m in found)
    assert not model.training
    again = bench_models.parc_everywhere(3).state_dict()
    assert all((again[key] == value).all() for key, value in model.state_dict().items())


@pytest.fixture
def fake_measure(monkeypatch):
    """Compiling, exporting and measuring in no time; gives what was asked for."""
    asked = SimpleNamespace(compiled=[], exported=[], measured=[], broken=(), wrong=())

    def compile_(name, output, **options):
        asked.compiled.append((name, options.get("target", "host"), options.get("verify", False)))
        memory = {"arena_bytes": 300, "live_peak_bytes": 200}
        return SimpleNamespace(manifest={"memory": memory})

    def fake(jobs, *, seconds, tolerance=None, reference=None, absent=None, progress=None):
        asked.measured.append((jobs, seconds, tolerance, reference))
        if any(name in job.source for name in asked.wrong for job in jobs):
            raise MeasurementError("they do not compute the same")
        for job in jobs:
            if job.runtime in asked.broken:
                absent(job, MeasurementError(f"{job.runtime} failed: no kernel\nmore words"))
        return [
            measure.Series(
                job=job,
                times_s=(MEDIANS[job.runtime], MEDIANS[job.runtime] + 1, MEDIANS[job.runtime] - 1),
                rounds=5,
                max_difference=1e-6,
                error=None if reference is None else 2e-6,
            )
            for job in jobs
            if job.runtime not in asked.broken
        ]

    class Worker:
        doing = ""

        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def call(self, function):
            assert function == "parc_hw.profile:fma_peak"
            return 1.5e11

    monkeypatch.setattr(bench_models, "_compile", compile_)
    monkeypatch.setattr(measure, "export_onnx", lambda name, *a, **k: asked.exported.append(name))
    monkeypatch.setattr(measure, "measure", fake)
    monkeypatch.setattr(measure, "open_worker", lambda name, threads: Worker())
    return asked


def test_a_model_is_compiled_once_and_measured_for_each_number_of_threads(fake_measure):
    (made,) = bench_models.measure_models(["mobilenetv2"], threads=[1, 2], seconds=2.0)
    assert fake_measure.compiled == [("mobilenetv2", "host", False)]
    assert fake_measure.exported == ["mobilenetv2"]
    for (jobs, seconds, tolerance, reference), threads in zip(
        fake_measure.measured, (1, 2), strict=True
    ):
        assert [job.runtime for job in jobs] == ["parc_hw", "torch", "onnxruntime", "openvino"]
        assert {job.threads for job in jobs} == {threads}
        assert (seconds, tolerance) == (2.0, 1e-3)
        assert (reference.runtime, reference.source) == ("float64", "mobilenetv2")
    first, second = made["cases"]
    assert first["parameters"] == models.info("mobilenetv2").parameters
    assert (first["peak_flops"], second["peak_flops"]) == (1.5e11, None)
    assert verdict(made, "arena", "mobilenetv2").value == 1.5
    assert first["rows"][0]["min_s"] == 7.0
    assert first["rows"][0]["median_s"] == 8.0


def test_a_peer_that_is_not_installed_is_named(fake_measure, monkeypatch):
    monkeypatch.setattr(
        bench_models, "find_spec", lambda name: None if name == "openvino" else object()
    )
    (made,) = bench_models.measure_models(["mobilenetv2"], threads=[1], seconds=1.0)
    line = 'openvino: needs openvino; pip install "parc_hw[bench]"'
    assert made["cases"][0]["missing"] == [line]
    assert [row["runtime"] for row in made["cases"][0]["rows"]] == [
        "parc_hw",
        "torch",
        "onnxruntime",
    ]
    assert bench_models.left_out(made) == [line]
    assert verdict(made, "onnxruntime", "mobilenetv2").value == 0.8
    assert "best" not in bench_models_goals.ratios(made["cases"][0])


def test_a_peer_that_cannot_run_a_model_is_named_with_it(fake_measure):
    fake_measure.broken = ("openvino",)
    (made,) = bench_models.measure_models(["mobilenetv2"], threads=[1], seconds=1.0)
    both = bench_models.merge(document(case("resnet50")), made)
    assert bench_models.left_out(both) == [
        "openvino: openvino failed: no kernel (mobilenetv2)"  # the error's first line
    ]


def test_without_peers_torch_is_not_needed(fake_measure, monkeypatch):
    monkeypatch.setattr(bench_models, "find_spec", lambda name: None)
    (made,) = bench_models.measure_models(["mobilenetv2"], threads=[2], seconds=1.0, peers=())
    ((jobs, _, _, reference),) = fake_measure.measured
    assert [job.runtime for job in jobs] == ["parc_hw"]
    assert reference is None
    assert made["cases"][0]["missing"] == fake_measure.exported == []


def test_a_model_that_fails_keeps_the_next_from_nothing(fake_measure):
    fake_measure.wrong = ("mobilenetv2",)
    with pytest.raises(MeasurementError, match="do not compute the same"):
        list(bench_models.measure_models(["mobilenetv2"], threads=[1], seconds=1.0))
    failed = []
    made = list(
        bench_models.measure_models(
            ["mobilenetv2", "resnet50"],
            threads=[1],
            seconds=1.0,
            failed=lambda name, error: failed.append(name),
        )
    )
    assert failed == ["mobilenetv2"]
    assert [one["cases"][0]["model"] for one in made] == ["resnet50"]


def test_a_pair_is_measured_in_the_same_rounds_and_verified(fake_measure):
    (made,) = bench_models.measure_pairs([BASELINES[3]], threads=[1], seconds=1.0)
    assert fake_measure.compiled == [("parcnet_s", "host", True), ("mobilevit_s", "host", True)]
    ((jobs, _, tolerance, _),) = fake_measure.measured
    assert [Path(job.source).name for job in jobs] == ["parcnet_s", "mobilevit_s"]
    assert tolerance is None  # two networks, two outputs
    assert made["pairs"][0]["parc_s"] == made["pairs"][0]["baseline_s"] == 8.0


# ---------------------------------------------------------------- measuring


class FakeWorker:
    """A process whose outputs are given; one that is None cannot start."""

    def __init__(self, output):
        self.output = output

    def ask(self, what, argument):
        return [self.output] if what == "output" else [0.1] * argument


@pytest.fixture
def workers(monkeypatch):
    """Give outputs by runtime; the processes of the others end at once."""
    import contextlib

    given = {}

    @contextlib.contextmanager
    def worker(job):
        if job.runtime not in given:
            raise MeasurementError(f"{job.runtime} cannot start")
        yield FakeWorker(np.asarray(given[job.runtime], np.float32))

    monkeypatch.setattr(measure, "_worker", worker)
    return given


def jobs(*runtimes):
    return [
        measure.Job(runtime=runtime, threads=1, source="m", shapes=((1,),), seed=1)
        for runtime in runtimes
    ]


def test_differences_are_in_standard_deviations_and_errors_are_from_the_reference(workers):
    workers.update(parc_hw=[-2, 2], torch=[-2, 2.002], float64=[-2, 2.001])
    ours, torch = measure.measure(
        jobs("parc_hw", "torch"), seconds=0.1, tolerance=2e-3, reference=jobs("float64")[0]
    )
    assert ours.max_difference == 0
    assert torch.max_difference == pytest.approx(1e-3, rel=1e-3)
    assert ours.error == pytest.approx(5e-4, rel=1e-2)


@pytest.mark.parametrize("theirs", [[-2, 2.01], [-2, np.nan], [1, 2, 3]])
def test_other_numbers_are_refused_before_anything_is_timed(workers, theirs):
    workers.update(parc_hw=[-2, 2], torch=theirs)
    with pytest.raises(
        MeasurementError, match=r"torch and parc_hw with 1 threads differ by .*on m"
    ):
        measure.measure(jobs("parc_hw", "torch"), seconds=0.1, tolerance=1e-3)


def test_only_a_peer_may_be_absent(workers):
    workers.update(torch=[-2, 2], openvino=[-2, 2])
    absent = []
    told = {"absent": lambda job, error: absent.append((job.runtime, str(error)))}
    found = measure.measure(jobs("torch", "onnxruntime", "openvino"), seconds=0.1, **told)
    assert [one.job.runtime for one in found] == ["torch", "openvino"]
    assert absent == [("onnxruntime", "onnxruntime cannot start")]
    with pytest.raises(MeasurementError, match="parc_hw cannot start"):
        measure.measure(jobs("parc_hw", "torch"), seconds=0.1, **told)
    with pytest.raises(MeasurementError, match="onnxruntime cannot start"):
        measure.measure(jobs("torch", "onnxruntime"), seconds=0.1)


# ---------------------------------------------------------------- what the figures say


def test_ratios_are_ours_over_the_peers_and_the_best_is_the_fastest_of_two():
    found = bench_models_goals.ratios(case())
    assert found == {
        "torch": 0.2,
        "onnxruntime": 0.8,
        "openvino": pytest.approx(8 / 9),
        "best": pytest.approx(8 / 9),
    }
    assert bench_models_goals.ratios(None) == {}
    assert bench_models_goals.peak_share(case()) == 2 * 4e9 / 8.0 / 2e9
    assert bench_models_goals.peak_share(case(threads=2)) is None


def test_a_goal_is_met_at_its_limit_and_missed_beyond():
    at = document(case("convnext_xt", medians={**MEDIANS, "parc_hw": 8.5}))
    assert verdict(at, "onnxruntime", "convnext_xt").met is True
    beyond = document(case("convnext_xt", medians={**MEDIANS, "parc_hw": 8.51}))
    found = verdict(beyond, "onnxruntime", "convnext_xt")
    assert found.met is False
    assert found.value == pytest.approx(0.851)
    assert verdict(beyond, "best", "convnext_xt").met is False
    assert verdict(beyond, "peak", "convnext_xt").met is False
    assert verdict(beyond, "onnxruntime", "resnet50").met is None
    assert verdict(beyond, "error", "convnext_xt").value == pytest.approx(1.5)
    assert verdict(beyond, "arena", "convnext_xt").met is True


def test_a_mean_of_some_models_is_neither_met_nor_missed():
    some = document(case(OTHERS[0]), case(OTHERS[1], medians={**MEDIANS, "parc_hw": 20.0}))
    found = verdict(some, "mean")
    assert found.value == pytest.approx((0.8 * 2.0) ** 0.5)
    assert found.met is None
    assert found.about == f"2 of {len(OTHERS)} models"
    assert verdict(document(*map(case, OTHERS)), "mean").met is True


def test_every_model_has_a_goal_for_one_thread_and_for_two():
    for threads in (1, 2):
        found = [g.model for g in GOALS if g.kind == "onnxruntime" and g.threads == threads]
        assert sorted(found) == sorted(bench_models.names())
    limits = {g.model: g.limit for g in GOALS if g.kind == "onnxruntime" and g.threads == 1}
    assert (limits["convnext_xt"], limits[EVERYWHERE], limits["resnet50"]) == (0.85, 0.72, 1.0)
    assert len(set(GOALS)) == len(GOALS)


def test_a_pairs_own_run_counts_before_two_separate_ones():
    apart = [case("parc_mobilenetv2"), case("mobilenetv2", medians={**MEDIANS, "parc_hw": 10.0})]
    both = verdict(document(*apart), "pair", "parc_mobilenetv2")
    assert (both.value, both.about, both.met) == (0.8, "from two runs", True)
    together = verdict(document(*apart, pairs=[pair()]), "pair", "parc_mobilenetv2")
    assert (together.value, together.about, together.met) == (
        1.25,
        "both in the same rounds",
        False,
    )


def test_counts_are_compared_with_counts():
    counts = [
        {"device": device, "model": model, "instructions": count}
        for device, model, count in (
            ("cortex-a76", "convnext_xt", 400e6),
            ("cortex-a76", "parc_convnext_xt", 380e6),
            ("cortex-a17", "convnext_xt", 1000e6),
        )
    ]
    made = document(counts=counts)
    assert verdict(made, "instructions", "convnext_xt", 0).met is True
    assert verdict(made, "pair, instructions", "parc_convnext_xt", 0).value == pytest.approx(0.95)
    assert verdict(made, "arm32", "convnext_xt", 0).value == 2.5
    assert verdict(made, "arm32", "convnext_xt", 0).met is False


# ---------------------------------------------------------------- documents


def test_new_rows_replace_old_ones_and_the_rest_stays():
    old = document(case("resnet50", 2), case("mobilenetv2"), pairs=[pair()])
    new = document(case("mobilenetv2", rounds=9), case("convnext_xt"))
    merged = bench_models.merge(bench_models_goals.with_goals(old), new)
    assert [(c["model"], c["threads"], c["rounds"]) for c in merged["cases"]] == [
        ("convnext_xt", 1, 5),
        ("mobilenetv2", 1, 9),
        ("resnet50", 2, 5),
    ]
    assert merged["pairs"] == [pair()]
    assert "goals" not in merged  # they were the old rows'
    assert bench_models.merge(None, new) is new


def test_results_of_another_machine_are_not_joined():
    old = {**document(case()), "machine": {"cpu": "another"}}
    with pytest.raises(InputError, match=r"are of {'cpu': 'another'}, the new ones of .* delete"):
        bench_models.merge(old, document())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"machine": {}, "cases": [], "counts": []}'])
def test_a_file_that_holds_something_else_is_refused(tmp_path, text):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"r.json is not a result of `parc-hw bench models`"):
        bench_models.read(file)
    assert bench_models.read(tmp_path / "none.json") is None


# ---------------------------------------------------------------- the command


def test_rows_are_added_model_by_model(cli, fake_measure, tmp_path):
    files = [tmp_path / "m.json", tmp_path / "m.csv"]
    written = [word for file in files for word in ("-o", file)]
    outcome = cli("bench", "models", "resnet50", "--threads", 1, "--seconds", 1, *written)
    assert outcome.code == 0, outcome.err
    assert fake_measure.measured[0][1] == 1.0
    outcome = cli("bench", "models", "mobilenetv2", "--threads", 1, *written)
    data = json.loads(files[0].read_text())
    assert [c["model"] for c in data["cases"]] == ["resnet50", "mobilenetv2"]
    assert len(data["goals"]) == len(GOALS)
    rows = list(csv.DictReader(files[1].open()))
    assert len(rows) == 8
    assert float(rows[2]["ours_over_it"]) == 0.8
    assert "mobilenetv2" in outcome.out
    assert "0.889" in outcome.out  # over the better of the two
    assert "2 of 19 models" in outcome.out
    assert "goals met" in outcome.out


def test_what_was_measured_before_an_interruption_is_kept(cli, fake_measure, tmp_path, monkeypatch):
    real = measure.measure

    def interrupted(jobs, **options):
        if len(fake_measure.measured) == 2:
            raise KeyboardInterrupt
        return real(jobs, **options)

    monkeypatch.setattr(measure, "measure", interrupted)
    file = tmp_path / "m.json"
    outcome = cli("bench", "models", "resnet50", "mobilenetv2", "-o", file)
    assert outcome.code != 0
    assert {c["model"] for c in json.loads(file.read_text())["cases"]} == {"resnet50"}


def test_one_models_failure_is_told_and_is_the_status(cli, fake_measure, tmp_path):
    fake_measure.wrong = ("mobilenetv2",)
    file = tmp_path / "m.json"
    outcome = cli("bench", "models", "mobilenetv2", "resnet50", "-o", file)
    assert outcome.code != 0
    assert "mobilenetv2: they do not compute the same" in outcome.err
    assert "mobilenetv2 could not be measured" in outcome.err
    assert {c["model"] for c in json.loads(file.read_text())["cases"]} == {"resnet50"}


def test_json_is_the_document_with_its_goals(cli, fake_measure):
    outcome = cli("--json", "bench", "models", "resnet50", "--no-peers")
    assert [c["threads"] for c in outcome.json["cases"]] == [1, 2]
    assert [job.runtime for job in fake_measure.measured[0][0]] == ["parc_hw"]
    assert {goal["met"] for goal in outcome.json["goals"] if "arena" not in goal["title"]} == {None}


def test_torch_compile_is_a_peer_when_it_is_asked_for(cli, fake_measure):
    fake_measure.broken = ("torch.compile",)
    outcome = cli("bench", "models", "resnet50", "--torch-compile", "--threads", 1)
    assert outcome.code == 0, outcome.err
    assert "torch.compile" in [job.runtime for job in fake_measure.measured[0][0]]
    assert "left out: torch.compile: torch.compile failed: no kernel" in outcome.out


def test_table7_shows_both_networks_and_the_ratio(cli, fake_measure, tmp_path, monkeypatch):
    def count(pairs, devices, **_):
        for device in devices:
            yield document(
                counts=[
                    {"device": device, "model": name, "instructions": number}
                    for name, number in (("parc_mobilenetv2", 3e8), ("mobilenetv2", 4e8))
                ]
            )

    monkeypatch.setattr(bench_models, "count_on_arm", count)
    file = tmp_path / "m.json"
    words = ("parc_mobilenetv2", "--threads", 1, "--instructions", "cortex-a76", "-o", file)
    outcome = cli("bench", "table7", *words)
    assert outcome.code == 0, outcome.err
    assert "3.53 / 3.50" in outcome.out
    assert "1e6 instructions, cortex-a76" in outcome.out
    assert "0.75" in outcome.out
    assert "2 of 2 goals met; 6 not measured" in outcome.out
    data = json.loads(file.read_text())
    assert data["pairs"][0]["baseline"] == "mobilenetv2"
    assert len(data["counts"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("models", "resnet"), "'resnet' is not a model that is measured. Did you mean"),
        (("table7", "resnet50"), "'resnet50' is not in the table; accepted: parc_convnext_xt"),
        (("table7", "--instructions", "cortex-x"), "cortex-x"),
        (("table7", "--no-peers"), "--no-peers is for a bundle and models and table11, not for"),
        (("models", "--instructions", "cortex-a76"), "--instructions is for table7, not for"),
        (("models", "--size", "56"), "--size is for table11, not for models; leave it out"),
        (("b", "resnet50"), "NAME is for models and table7, not for b; leave it out"),
        (("table11", "--torch-compile"), "--torch-compile is for models, not for table11"),
        (("models", "-o", "r.svg"), "results are written as .json or .csv; end the name so"),
        (("models", "--threads", 65), "less than or equal to 64"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, fake_measure, arguments, message):
    outcome = cli("bench", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert fake_measure.compiled == fake_measure.measured == []


def test_another_machines_file_is_refused_before_anything_is_measured(cli, fake_measure, tmp_path):
    file = tmp_path / "m.json"
    file.write_text(json.dumps({**document(), "machine": {"cpu": "another"}}))
    assert cli("bench", "models", "resnet50", "-o", file).code == 2
    assert fake_measure.compiled == []


# ---------------------------------------------------------------- for real


@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.slow
def test_a_model_is_measured_with_peers_in_processes():
    (made,) = bench_models.measure_models([EVERYWHERE], threads=[2], seconds=0.1)
    (found,) = made["cases"]
    assert found["missing"] == bench_models.missing_runtimes()
    assert all(0 < row["min_s"] <= row["median_s"] for row in found["rows"])
    assert all(row["error_std"] <= 1e-4 for row in found["rows"])  # float32 sums


# ---------------------------------------------------------------- the page


def _tool(repository):
    path = repository / "tools" / "models_bench_tables.py"
    spec = importlib.util.spec_from_file_location("models_bench_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_parts_are_replaced_and_nothing_else(repository):
    tool = _tool(repository)
    made = document(case(), case(threads=2, missing=["torch: ended"]), pairs=[pair()])
    page = "before\n<!-- models times -->\nold\n<!-- end of models times -->\nbehind\n"
    filled = tool.filled(page, made)
    assert filled.startswith("before\n<!-- models times -->\n1 thread:\n\n| model | ours |")
    assert "Left out: torch: ended.\n" in filled
    assert filled.endswith("<!-- end of models times -->\nbehind\n")
    assert "old" not in filled
    assert tool.filled(filled, made) == filled
    assert "both in the same rounds | 3.53 / 3.50 | 0.30 / 0.30 | 1.25 | 1.13" in tool.table7(made)
    assert "parc_mobilenetv2: 1.25 (at most 1.03, **missed**)" in tool.goals(made)
    for part in tool.PARTS.values():
        assert part(document()) == tool.NOTHING


def test_the_page_is_up_to_date_with_the_results(repository):
    tool = _tool(repository)
    page = tool.PAGE.read_text()
    assert page.count("<!-- models ") == len(tool.PARTS)
    results = json.loads(tool.RESULTS.read_text())
    assert tool.filled(page, results) == page, "run python tools/models_bench_tables.py"
