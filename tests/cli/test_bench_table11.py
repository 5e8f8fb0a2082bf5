"""Table 11: what is measured, what the figures say, what is written, what is refused."""

from __future__ import annotations

import csv
import importlib.util
import json
from collections import Counter

import numpy as np
import pytest

from parc_hw import measure, peers, table11, table11_goals, table11_shown
from parc_hw.errors import InputError, MeasurementError, UnsupportedError
from parc_hw.peers import Entry, Size

SMALL = Size(6, 5, 8)


# ---------------------------------------------------------------- what is measured


def test_sizes_are_the_papers_and_the_zoos():
    assert [size.height for size in table11.PAPER] == [7, 14, 28, 56, 112, 224]
    assert [size.channels for size in table11.PAPER] == [384, 192, 96, 96, 96, 96]
    zoo = {f"{size.height}x{size.width}" for size in table11.ZOO}
    assert zoo == {f"{n}x{n}" for n in (8, 10, 16, 20, 32, 40, 64)} | {"25x42", "50x84", "100x168"}
    assert len(set(table11.SIZES)) == len(table11.SIZES)


@pytest.mark.parametrize("text", ["57", "56x57", "x", "", "56x56x97", "14x14x14x14"])
def test_a_size_that_is_not_in_the_table_is_refused(text):
    with pytest.raises(InputError, match=r"is not one of the table's; accepted: 7x7x384, 14x14x"):
        table11.find_size(text)


def test_every_peer_of_the_issue_is_there_for_both_axes():
    found = table11.entries(table11.PAPER[3], 1)
    for axis in "HW":
        programs = Counter(entry.program for entry in found if entry.operator == axis)
        assert set(programs) == {
            *("ours", "proxy 32", "proxy 16"),
            *("cat conv", "rfft", "baddbmm", "slice concat conv", "fftw", "scipy"),
        }
        assert programs["ours"] == 4  # two layouts, direct or not
    assert len(set(found)) == len(found)
    runtimes = [entry.runtime for entry in found]
    assert runtimes == sorted(runtimes, key=list(peers.RUNTIMES).index), "one process after another"
    assert set(runtimes) == set(peers.RUNTIMES)


def test_two_threads_leave_out_what_says_nothing_with_two():
    found = table11.entries(table11.PAPER[3], 2)
    assert {entry.plan for entry in found} == {"auto"}
    assert not {entry.operator for entry in found} & {"peak", "H part", "W part"}
    assert not {entry.program for entry in found} & set(peers.PROXIES)
    assert all(entry.threads == 2 for entry in found)


# ---------------------------------------------------------------- programs

PROGRAMS = [
    *(("H", program, layout) for program, layout in table11._CORRELATIONS),
    *(("W", program, layout) for program, layout in table11._CORRELATIONS),
    *(("dense H", program, layout) for program, layout in table11._DENSE_PEERS),
    *(("dense W", program, layout) for program, layout in table11._DENSE_PEERS),
    *(("dw3", "conv", layout) for layout in table11.LAYOUTS),
    ("dw7", "conv", "NHWC"),
]
OURS = [
    *(
        (operator, "ours", layout)
        for operator in ("H", "W", "half", "HW")
        for layout in ("NHWC", "NCHW")
    ),
    ("H part", "ours", "NHWC"),
    ("W part", "ours", "NCHW"),
    ("dense H", "ours", "NHWC"),
    ("dense W", "ours", "NCHW"),
    ("dw3", "ours", "NHWC"),
    ("dw7", "ours", "NHWC"),
]


@pytest.fixture
def prepared():
    """Prepare in this process, and release what was prepared."""
    import torch

    grad, threads = torch.is_grad_enabled(), torch.get_num_threads()
    yield peers.prepare
    peers.forget()
    # A worker's process is its own; this one is shared with other tests.
    torch.set_grad_enabled(grad)
    torch.set_num_threads(threads)


@pytest.mark.torch
@pytest.mark.parametrize(("operator", "program", "layout"), PROGRAMS)
def test_every_peer_computes_the_correlation(prepared, operator, program, layout):
    entry = Entry(size=SMALL, operator=operator, program=program, layout=layout)
    if any(importlib.util.find_spec(name) is None for name in peers.RUNTIMES[entry.runtime][0]):
        assert any(line.startswith(entry.runtime) for line in table11.missing_runtimes())
        return
    ready = prepared(entry)
    assert ready.error <= ready.bound
    assert all(time > 0 for time in peers.time_entry(entry, 2, 3))


@pytest.mark.tvm
@pytest.mark.parametrize(("operator", "program", "layout"), OURS)
def test_ours_computes_it_with_embedding_and_bias(prepared, operator, program, layout):
    entry = Entry(size=SMALL, operator=operator, program=program, layout=layout)
    ready = prepared(entry)
    assert ready.error <= ready.bound
    assert len(peers.time_entry(entry, 4, 1)) == 4


@pytest.mark.tvm
@pytest.mark.parametrize("name", list(peers.PROXIES))
def test_a_proxy_has_four_lanes_and_the_plan_of_its_core(prepared, name):
    if table11.load_device("host").vector_registers < peers.PROXIES[name][1]:
        with pytest.raises(UnsupportedError, match=r"Measure it on a machine with AVX-512"):
            peers.proxy_device(name)
        return
    device = peers.proxy_device(name)
    assert (device.lanes(), device.vector_registers) == (4, peers.PROXIES[name][1])
    assert device.runs_here
    entry = Entry(size=Size(28, 28, 8), operator="H", program=name, layout="NHWC")
    core = peers.kernel_for(entry, table11.load_device(peers.PROXIES[name][0]))
    plan = peers._PLAN.search(core.note)[0]
    assert f" {plan}: " in prepared(entry).note


def test_a_peer_that_computes_something_else_is_no_peer(prepared, monkeypatch):
    entry = Entry(size=SMALL, operator="H", program="scipy")
    monkeypatch.setattr(peers._Problem, "spectrum", lambda self: np.zeros((8, 4, 1), np.complex64))
    with pytest.raises(
        MeasurementError, match=r"scipy, NCHW on H of 6x5x8 is off by .* is no peer"
    ):
        prepared(entry)


def test_problems_are_the_same_in_every_process():
    first, second = (peers._Problem(SMALL, "half") for _ in range(2))
    np.testing.assert_array_equal(first.x, second.x)
    assert all(np.array_equal(a, b) for a, b in zip(first.weights, second.weights, strict=True))
    assert not np.array_equal(first.x, peers._Problem(SMALL, "HW").x)


@pytest.mark.parametrize("operator", ["H", "W"])
def test_half_and_hw_are_made_of_the_two_correlations(operator):
    """On the channels that `half` gives to an axis, its numbers are that axis's alone."""
    half = peers._Problem(SMALL, "half")
    number, channels = (0, slice(0, 4)) if operator == "H" else (1, slice(4, 8))
    alone = peers._Problem(SMALL, f"{operator} part")
    alone.x, alone.weights = half.x[channels], [half.weights[number]]
    alone.embeddings, alone.biases = [half.embeddings[number]], [half.biases[number]]
    np.testing.assert_allclose(
        half.expected(constants=True)[channels], alone.expected(constants=True), rtol=0, atol=1e-12
    )


@pytest.mark.tvm
@pytest.mark.parametrize("what", ["fma", "fma, add"])
def test_the_peak_is_arithmetic_and_nothing_else(what):
    program = peers._peak(Entry(size=SMALL, operator="peak", program=f"4 {what}"))
    program.run()
    expected = np.full((2 * peers.PEAK_SUMS, 4), peers.PEAK_TURNS, np.float32)
    np.testing.assert_array_equal(program.result().reshape(-1, 4), expected)


@pytest.mark.tvm
def test_the_counted_arithmetic_of_the_direct_form_is_n_for_each_output(monkeypatch):
    if table11.load_device("host").isa.value != "x86_64":
        with pytest.raises(KeyError):
            peers.count_arithmetic(Entry(size=SMALL, operator="H", program="ours"))
        return
    entry = Entry(size=Size(7, 3, 16), operator="H", program="ours", layout="NHWC", plan="direct")
    found = peers.count_arithmetic(entry)
    lanes = sum(int(width) * numbers["fma"] for width, numbers in found.items())
    assert lanes == 7 * 3 * 16 * 7
    assert sum(numbers["add"] for numbers in found.values()) == 0


# ---------------------------------------------------------------- a document


def row(
    operator, program, layout, median_s, *, plan="auto", note="along H: 14x4: cheapest", **more
):
    entry = Entry(size=SMALL, operator=operator, program=program, layout=layout, plan=plan)
    times = {
        "median_s": median_s,
        "min_s": 0.9 * median_s,
        "p10_s": 0.95 * median_s,
        "p90_s": 1.2 * median_s,
        "runs": 7,
        "calls": 1,
    }
    return {
        **{
            key: getattr(entry, key)
            for key in ("operator", "program", "layout", "plan", "runtime", "text")
        },
        "note": note if entry.runtime == "parc_hw" else "",
        "error": 1e-7,
        "bound": 1e-6,
        "arithmetic": None,
        "apart": times,
        "in_a_row": {**times, "median_s": median_s / 2, "calls": 64},
        **more,
    }


def document(size="56x56x96", *, threads=1, rows=None):
    made = table11.new_document()
    case = {
        "size": size,
        "threads": threads,
        "rounds": 5,
        "measured": "2030-01-02T03:04:05+00:00",
        "missing": [],
        "rows": ROWS if rows is None else rows,
    }
    return {**made, "cases": [case]}


ROWS = [
    row("H", "ours", "NHWC", 100e-6),
    row("H", "ours", "NCHW", 80e-6),
    row("H", "ours", "NHWC", 420e-6, plan="direct", note="along H: 1x56: asked for"),
    row("H", "ours", "NCHW", 40e-6, plan="direct", note="along H: 1x56: asked for"),
    row("H", "cat conv", "NCHW", 900e-6),
    row("H", "baddbmm", "NCHW", 400e-6),
    row("H", "proxy 32", "NHWC", 1e-6),  # no figure may take it for ours or a peer
    row("W", "ours", "NHWC", 110e-6, note="along W: 1x56: cheapest"),
    row("W", "ours", "NHWC", 90e-6, plan="direct", note="along W: 1x56: asked for"),
    row("H part", "ours", "NHWC", 30e-6),
    row("W part", "ours", "NHWC", 20e-6),
    row("half", "ours", "NHWC", 40e-6),
    row("HW", "ours", "NHWC", 210e-6),
    row("dw3", "ours", "NHWC", 50e-6),
    row("dw7", "ours", "NHWC", 200e-6),
    row("dw7", "conv", "NHWC", 1e-6),
]


def figure(kind, operator, data=None):
    return next(
        verdict
        for verdict in table11_goals.verdicts(data or document())
        if (verdict.goal.kind, verdict.goal.operator) == (kind, operator)
        and verdict.goal.size == table11.PAPER[3]
    )


@pytest.mark.parametrize(
    ("kind", "operator", "value", "met"),
    [
        ("ms", "H", 0.1, True),
        ("ms", "W", 0.11, False),
        ("peer", "H", 5.0, True),  # 400 / 80: the best peer, the better layout
        ("peer", "W", None, None),
        ("direct", "H", 0.5, False),  # in NCHW, which is ours' better layout
        ("direct, worse", "H", 0.5, False),
        ("direct, worse", "W", 1.0, True),  # one kernel under two names
        ("dw7", "H", 0.5, False),
        ("dw3", "H", 2.0, True),
        ("parts", "half", 0.8, True),
        ("parts", "HW", 1.0, True),
    ],
)
def test_figures_are_these_ratios(kind, operator, value, met):
    verdict = figure(kind, operator)
    assert verdict.value == pytest.approx(value) if value is not None else verdict.value is None
    assert verdict.met is met


def test_the_floor_charges_additions_what_they_cost_beside_multiply_adds():
    pairs = peers.PEAK_SUMS * peers.PEAK_TURNS

    def value(pair_ns):
        arithmetic = {"16": {"fma": 1000, "add": 500}}
        rows = [
            row("H", "ours", "NHWC", 10e-6, arithmetic=arithmetic),
            row("peak", "16 fma", "NCHW", 2e-9 * pairs / 0.9),  # 1 ns each, at the minimum
            row("peak", "16 fma, add", "NCHW", pair_ns * 1e-9 * pairs / 0.9),
        ]
        return figure("floor", "H", document(rows=rows)).value

    assert value(1.0) == pytest.approx(9.0)  # units of their own
    assert value(2.0) == pytest.approx(6.0)  # the same units


def test_instructions_are_those_of_the_better_layout():
    counts = [
        {
            "device": "cortex-a17",
            "size": "56x56x96",
            "operator": "H",
            "layout": layout,
            "plan": plan,
            "note": "along H: 8x7: cheapest",
            "instructions_per_output": value,
        }
        for layout, plan, value in (
            ("NHWC", "auto", 17.5),
            ("NCHW", "auto", 17.3),
            ("NHWC", "direct", 1.0),
        )
    ]
    verdicts = table11_goals.verdicts({**document(), "counts": counts})
    found = [v for v in verdicts if v.goal.kind == "instructions" and v.value is not None]
    assert [(v.value, v.met, v.about) for v in found] == [(17.3, True, "NCHW, 8x7")]


def test_every_row_of_reach_is_a_goal():
    kinds = Counter(goal.kind for goal in table11_goals.GOALS)
    assert set(kinds) == {*table11_goals._FIGURES, "instructions"}
    limits = {
        (g.kind, g.operator, g.size.height, g.device): g.limit
        for g in table11_goals.GOALS
        if g.size in table11.PAPER
    }
    assert limits["ms", "W", 56, ""] == 0.10
    assert limits["peer", "H", 112, ""] == 7
    assert limits["peer", "W", 224, ""] == 3
    assert limits["floor", "H", 224, ""] == 1.8
    assert limits["parts", "HW", 112, ""] == 0.9
    assert limits["instructions", "H", 28, "cortex-a17"] == 13.7
    zoo = [g for g in table11_goals.GOALS if g.kind == "peer" and g.size in table11.ZOO]
    assert len(zoo) == 2 * len(table11.ZOO)
    assert {g.limit for g in zoo} == {3}


# ---------------------------------------------------------------- joining and writing


def test_rows_measured_again_take_the_place_of_the_old_ones():
    old = table11.merge(document("14x14x192"), document("56x56x96"))
    new = document("56x56x96", rows=ROWS[:2])
    merged = table11.merge(table11.merge(old, document("7x7x384", threads=2)), new)
    assert [(case["threads"], case["size"], len(case["rows"])) for case in merged["cases"]] == [
        (1, "14x14x192", len(ROWS)),
        (1, "56x56x96", 2),
        (2, "7x7x384", len(ROWS)),
    ]
    assert table11.merge(None, new) is new


def test_counts_survive_a_run_that_counts_nothing():
    old = {**document(), "counts": [1], "missing": ["no compiler for armv7a"]}
    merged = table11.merge(old, document())
    assert (merged["counts"], merged["missing"]) == ([1], ["no compiler for armv7a"])
    assert table11.merge(old, {**document(), "counts": [2]})["missing"] == []
    assert table11.merge(old, {**document(), "missing": ["all"]})["counts"] == []


def test_what_was_left_out_is_told_until_it_is_measured():
    without = document()
    without["cases"][0]["missing"] = ["pyfftw: needs pyfftw"]
    joined = table11.merge({**without, "missing": ["modelled cycles"]}, document("14x14x192"))
    assert table11.left_out(joined) == ["modelled cycles", "pyfftw: needs pyfftw"]
    assert table11.left_out(table11.merge(joined, document())) == ["modelled cycles"]


def test_results_of_another_machine_are_not_joined():
    other = {**document(), "machine": {"cpu": "another"}}
    with pytest.raises(InputError, match=r"the results there are of \{'cpu': 'another'\}.*delete"):
        table11.merge(other, document())


@pytest.mark.parametrize("text", ["[1, 2]", "no json", '{"cases": []}'])
def test_a_file_with_something_else_is_not_added_to(tmp_path, text):
    file = tmp_path / "r.json"
    file.write_text(text)
    with pytest.raises(InputError, match=r"r.json is not a result of `parc-hw bench table11`"):
        table11.read(file)
    assert table11.read(tmp_path / "none.json") is None


def test_the_picture_is_drawn_and_the_same_each_time(tmp_path):
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        table11_shown.plot(document(), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    assert b"<svg" in files[0].read_bytes()


# ---------------------------------------------------------------- the command


@pytest.fixture
def fake(monkeypatch):
    """Measuring and counting in no time; gives what was asked for."""
    asked = []

    def measure_sizes(sizes, *, threads, rounds, peers, progress):
        asked.append((list(sizes), list(threads), rounds, peers))
        for count in threads:
            for size in sizes:
                yield document(str(size), threads=count)

    def count_on_arm(progress):
        asked.append("counts")
        return table11.new_document()

    monkeypatch.setattr(table11, "measure_sizes", measure_sizes)
    monkeypatch.setattr(table11, "count_on_arm", count_on_arm)
    return asked


def test_the_command_writes_all_kinds_of_files(cli, fake, tmp_path):
    files = [tmp_path / f"t.{suffix}" for suffix in ("json", "csv", "svg")]
    outcome = cli(
        "bench", "table11", "--size", "56", "--threads", 1, *(w for f in files for w in ("-o", f))
    )
    assert outcome.code == 0, outcome.err
    assert fake == [([table11.PAPER[3]], [1], 12, True)]  # one size: nothing is counted
    data = json.loads(files[0].read_text())
    assert data == table11_shown.with_goals(document())
    assert '\n    {"operator": "H", "program": "ours", ' in files[0].read_text()  # a line for each
    assert len(data["goals"]) == len(table11_goals.GOALS)
    lines = list(csv.DictReader(files[1].open()))
    assert len(lines) == len(ROWS)
    assert float(lines[0]["apart_median_s"]) == 100e-6
    assert files[2].stat().st_size > 1000
    assert "MISSED" in outcome.out
    assert "goals met" in outcome.out
    assert "torch baddbmm, NCHW" in outcome.out


def test_rows_are_added_to_a_file_that_is_there(cli, fake, tmp_path):
    file = tmp_path / "t.json"
    for size in ("14", "56"):
        assert cli("bench", "table11", "--size", size, "--threads", 1, "-o", file).code == 0
    assert [case["size"] for case in json.loads(file.read_text())["cases"]] == [
        "14x14x192",
        "56x56x96",
    ]


def test_without_options_all_sizes_are_measured_and_arm_is_counted(cli, fake):
    assert cli("bench", "table11").code == 0
    assert fake == [(list(table11.SIZES), [1, 2], 12, True), "counts"]


def test_quick_is_few_sizes_one_thread_and_no_counts(cli, fake):
    assert cli("bench", "table11", "--quick", "--no-peers").code == 0
    assert fake == [(list(table11.QUICK), [1], 5, False)]


def test_json_is_the_document_with_its_goals(cli, fake):
    outcome = cli("--json", "bench", "table11", "--only", "times", "--size", "56x56")
    assert outcome.json["cases"][0]["rows"][0]["operator"] == "H"
    assert {goal["met"] for goal in outcome.json["goals"]} == {True, False, None}
    assert fake == [([table11.PAPER[3]], [1, 2], 12, True)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("table11", "--seconds", 3),
            "--seconds is for a bundle and models and table7, not for table11; leave",
        ),
        (("table11", "--input-shape", "1x2"), "--input-shape is for a bundle, not for table11"),
        (("b", "--size", "56"), "--size is for table11, not for b; leave it out"),
        (("b", "--quick"), "--quick is for table11, not for b"),
        (("b", "-o", "r.svg"), "results are written as .json or .csv; end the name so"),
        (("table11", "-o", "r.txt"), "results are written as .json, .csv, .svg or .png"),
        (("table11", "--only", "all"), "--only all: accepted are times and counts"),
        (("table11", "--quick", "--size", "7"), "leave out --size, or --quick"),
        (("table11", "--quick", "--only", "counts"), "leave out --only counts, or --quick"),
        (("table11", "--size", "57"), "size '57' is not one of the table's"),
    ],
)
def test_options_that_do_not_go_together_are_refused(cli, fake, arguments, message):
    outcome = cli("bench", *arguments)
    assert outcome.code == 2
    assert message in outcome.err
    assert fake == []


def test_another_machines_file_is_refused_before_anything_is_measured(cli, fake, tmp_path):
    file = tmp_path / "t.json"
    file.write_text(json.dumps({**document(), "machine": {"cpu": "another"}}))
    outcome = cli("bench", "table11", "-o", file)
    assert outcome.code == 2
    assert "Write to another file, or delete the old one" in outcome.err
    assert fake == []


def test_absent_peers_are_named(cli, fake, monkeypatch):
    monkeypatch.setattr(table11, "find_spec", lambda name: None if name == "pyfftw" else object())
    outcome = cli("bench", "table11", "--size", "7")
    assert 'left out: pyfftw: needs pyfftw; pip install "parc_hw[bench]"' in outcome.err


# ---------------------------------------------------------------- for real


@pytest.mark.tvm
@pytest.mark.torch
@pytest.mark.slow
def test_a_size_is_measured_with_peers_in_processes(tmp_path):
    (made,) = table11.measure_sizes([table11.PAPER[0]], threads=[2], rounds=2)
    (case,) = made["cases"]
    assert table11.left_out(made) == table11.missing_runtimes()
    assert {r["runtime"] for r in case["rows"]} >= {"parc_hw", "torch", "scipy"}
    assert all(0 < r["apart"]["min_s"] <= r["apart"]["median_s"] for r in case["rows"])
    assert all(r["error"] <= r["bound"] for r in case["rows"])


def test_workers_call_functions_by_name():
    with measure.open_worker("a worker", threads=1) as worker:
        worker.doing = "a test"
        assert worker.call("math:gcd", 12, 18) == 6
        with pytest.raises(MeasurementError, match=r"a worker failed on a test: ZeroDivisionError"):
            worker.call("operator:floordiv", 1, 0)


def test_interleaving_asks_everyone_once_a_round():
    asked = []

    def slice_of(name):
        def measured():
            asked.append(name)
            return [1.0, 2.0]

        return measured

    times, done = measure.interleave([slice_of("a"), slice_of("b")], rounds=3)
    assert asked == ["a", "b"] * 3
    assert done == 3
    assert times == [[1.0, 2.0] * 3] * 2
    # a slow slice gets five rounds whatever the limit
    assert measure.interleave([slice_of("c")], rounds=9, limit_s=0.0)[1] == 5


# ---------------------------------------------------------------- pages


def _tool(repository):
    path = repository / "tools" / "table11_tables.py"
    spec = importlib.util.spec_from_file_location("table11_tables", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_pages_parts_are_replaced_and_nothing_else(repository):
    tool = _tool(repository)
    page = "before\n<!-- table11 overview -->\nold\n<!-- end of table11 overview -->\nbehind\n"
    filled = tool.filled(page, document())
    assert filled.startswith("before\n<!-- table11 overview -->\n| map | ParC-H, ms |")
    assert filled.endswith("<!-- end of table11 overview -->\nbehind\n")
    assert "old" not in filled
    assert tool.filled(filled, document()) == filled
    for name in tool.PARTS:
        tool.PARTS[name](document())


def test_the_pages_are_up_to_date_with_the_results(repository):
    tool = _tool(repository)
    results = json.loads(tool.RESULTS.read_text())
    for name in tool.PAGES:
        page = (repository / name).read_text()
        assert "<!-- table11 " in page
        assert tool.filled(page, results) == page, f"run python tools/table11_tables.py ({name})"
