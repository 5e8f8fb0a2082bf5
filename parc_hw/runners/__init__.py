"""Who measures candidates of the tuner: this machine, a board, an emulator, or a model of a pipeline?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from parc_hw.device import Device
from parc_hw.errors import InputError, nearest

if TYPE_CHECKING:
    from schedules.tuning.trial import Runner

__all__ = ["RUNNERS", "make_runner"]

RUNNERS = ("local", "rpc", "ssh", "qemu", "static")


def make_runner(
    name: str,
    *,
    device: Device,
    threads: int = 1,
    timeout_s: float = 10.0,
    tracker: str | None = None,
    key: str | None = None,
    host: str | None = None,
    jobs: int | None = None,
) -> Runner:
    """The runner that `--runner` names; close it, or use it as a context.

    Parameters
    ----------
    name : str
        One of `RUNNERS`: `local` times here, `ssh` on a board that has nothing but a shell, `rpc` on
        all servers of a TVM tracker; `qemu` counts executed instructions, `static` weighs them with
        llvm-mca's model of the processor.
    device : Device
        What is compiled for.
    threads : int
        Of a kernel; `qemu` and `static` count the work of all of them.
    timeout_s : float
        What one call of a candidate may take.
    tracker : str, optional
        HOST:PORT of the RPC tracker.
    key : str, optional
        Under which the servers are known to the tracker; the device's name if not given.
    host : str, optional
        Where `ssh` measures: USER@BOARD.
    jobs : int, optional
        Processes that compile; as many as there are processors to spare if not given.

    Raises
    ------
    InputError
        An unknown name, or options that the runner does not take or needs.
    MeasurementError
        The board or the tracker cannot be reached.
    ToolchainError
        A compiler, an emulator or llvm-mca is missing; says the line that installs it.
    """
    if name not in RUNNERS:
        raise InputError(
            f"no runner is called {name!r}.{nearest(name, RUNNERS)} Accepted: {', '.join(RUNNERS)}."
        )
    for option, value, owner in (
        ("tracker", tracker, "rpc"), ("key", key, "rpc"), ("host", host, "ssh"),
    ):  # fmt: skip
        if value is not None and name != owner:
            raise InputError(f"--{option} is for --runner {owner}; the runner is {name}.")
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs is {jobs}; accepted: a whole number of at least 1.")
    if name == "local":
        from parc_hw.runners.local import LocalRunner

        return LocalRunner(device=device, threads=threads, timeout_s=timeout_s, jobs=jobs)
    if name == "ssh":
        from parc_hw.runners.ssh import SshRunner

        if host is None:
            raise InputError("--runner ssh needs --host USER@BOARD.")
        return SshRunner(device=device, threads=threads, timeout_s=timeout_s, jobs=jobs, host=host)
    if name == "rpc":
        from parc_hw.runners.rpc import RpcRunner

        if tracker is None:
            raise InputError("--runner rpc needs --tracker HOST:PORT.")
        return RpcRunner(
            device=device,
            threads=threads,
            timeout_s=timeout_s,
            jobs=jobs,
            tracker=tracker,
            key=key or device.name,
        )
    from parc_hw.runners.counted import CountedRunner

    return CountedRunner(name, device=device, threads=threads, timeout_s=timeout_s, jobs=jobs)
