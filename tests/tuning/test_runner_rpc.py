"""A tracker with three servers: the work spreads, and nothing is lost when one of them dies."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import bad_builds
import pytest
from tuning_tasks import other_choices, parc_task

from parc_hw.device import load_device
from parc_hw.errors import InputError, MeasurementError
from parc_hw.runners import make_runner, timed
from schedules.tuning.trial import Status

pytestmark = [pytest.mark.tvm, pytest.mark.slow]
SERVERS = 3


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def server_count(port: int) -> int:
    code = (
        "from schedules.tuning.remote import server_count;"
        f"print(server_count('127.0.0.1', {port}, 'test')[0])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(said.stdout) if said.returncode == 0 else 0


@pytest.fixture(scope="module")
def farm():
    """A tracker's port and its servers' processes, each leader of a group."""
    port = free_port()
    started = []

    def start(module: str, *arguments: str) -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-m", f"tvm.exec.{module}", "--host", "127.0.0.1", *arguments],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    start("rpc_tracker", "--port", str(port), "--port-end", str(port + 1))
    end = time.monotonic() + 200
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            break
        except OSError:
            time.sleep(0.2)
    servers = []
    for _ in range(SERVERS):
        own = free_port()
        servers.append(
            start(
                "rpc_server",
                "--port",
                str(own),
                "--port-end",
                str(own + 1),
                "--tracker",
                f"127.0.0.1:{port}",
                "--key",
                "test",
            )
        )
    while server_count(port) < SERVERS:
        assert time.monotonic() < end, "the servers do not come up"
    try:
        yield port, servers
    finally:
        for process in started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def runner_of(port: int, **options):
    return make_runner(
        "rpc", device=load_device("host"), tracker=f"127.0.0.1:{port}", key="test", **options
    )


def test_candidates_that_fail_are_told_apart_on_a_server(farm, monkeypatch):
    task = parc_task()
    crash, hang, wrong = other_choices(task, 3)
    kinds = {crash: "crash", hang: "hang", wrong: "wrong"}
    monkeypatch.setattr(timed, "BUILD", "bad_builds:build")
    monkeypatch.setenv("PYTHONPATH", str(Path(bad_builds.__file__).parent))
    monkeypatch.setenv(
        bad_builds.VARIABLE, json.dumps({str(choice): kind for choice, kind in kinds.items()})
    )
    with runner_of(farm[0], timeout_s=2.0) as runner:
        trials = runner.measure(
            task,
            [task.default, *kinds],
            incumbent=task.default,
            deadline=time.monotonic() + 200,
        )
        found = {trial.choice: trial.status for trial in trials}
    assert found == {
        task.default: Status.OK,
        crash: Status.CRASHED,
        hang: Status.HUNG,
        wrong: Status.WRONG,
    }


def test_work_spreads_over_all_servers_and_outlives_one(farm):
    port, servers = farm
    task = parc_task()
    choices = list(task.space.points())[:40]
    used: Counter[str] = Counter()
    seen = []
    with runner_of(port) as runner:
        assert runner.width >= SERVERS
        for trial in runner.measure(
            task, choices, incumbent=task.default, deadline=time.monotonic() + 200
        ):
            assert trial.status is Status.OK, trial.message
            used[trial.device] += 1
            seen.append(trial.choice)
            if len(seen) == 12:
                os.killpg(servers[0].pid, signal.SIGKILL)
    assert sorted(map(str, seen)) == sorted(map(str, choices)), "a candidate was lost or doubled"
    assert len(used) == SERVERS


def test_a_key_without_servers_is_named(farm):
    with pytest.raises(MeasurementError, match=r"no server with the key 'nothing'; it has test"):
        make_runner(
            "rpc", device=load_device("host"), tracker=f"127.0.0.1:{farm[0]}", key="nothing"
        )


def test_a_tracker_that_is_not_there():
    with pytest.raises(MeasurementError, match=r"cannot be reached.*(?s:.*)rpc_tracker"):
        make_runner("rpc", device=load_device("host"), tracker=f"127.0.0.1:{free_port()}")


@pytest.mark.parametrize("text", ["board", "board:", ":9190", "board:port", "board:70000"])
def test_a_tracker_is_a_host_and_a_port(text):
    with pytest.raises(InputError, match=r"accepted: HOST:PORT"):
        make_runner("rpc", device=load_device("host"), tracker=text)
