"""How does a server of TVM's RPC measure candidates?

The library that is sent holds the measuring program as a packed function, so that a server needs
TVM's runtime and nothing of ours. These functions run in worker processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["measure", "server_count"]

_RESULTS = 17  # numbers of a measurement


def server_count(host: str, port: int, key: str) -> tuple[int, list[str]]:
    """How many servers a tracker has under `key`, and all keys it knows."""
    from tvm import rpc

    servers = rpc.connect_tracker(host, port).summary()["server_info"]
    keys = [str(server["key"]).removeprefix("server:") for server in servers]
    return keys.count(key), sorted(set(keys))


def measure(
    tracker: tuple[str, int],
    key: str,
    library: str,
    inputs: str,
    numbers: Sequence[int],
    options: Sequence[float],
    session_s: float,
) -> tuple[str, list[list[float]], str]:
    """Measure candidates of a library on the next server that is free.

    Parameters
    ----------
    tracker : tuple of (str, int)
        Where it listens.
    key : str
        Of the servers.
    library, inputs : str
        Files to send.
    numbers : sequence of int
        Of the candidates.
    options : sequence of float
        Seconds, width, time-out, processor and threads, as `measure.c` takes them.
    session_s : float
        After which the server ends the session.

    Returns
    -------
    server : str
        Its address; "" if none was reached.
    readings : list of list of float
        Of the first candidates; all of them, unless the connection broke.
    error : str
        Why it broke, or "".
    """
    server = ""
    readings: list[list[float]] = []
    try:
        server, session = _request(tracker, key, session_s)
        session.upload(library)
        session.upload(inputs)
        module = session.load_module(Path(library).name)
        path = str(session.get_function("tvm.rpc.server.workpath")(Path(inputs).name))
        run, result = module["parc_measure"], module["parc_result"]
        seconds, width, timeout_s, cpu, threads = options
        for number in numbers:
            run(number, path, seconds, width, int(timeout_s), int(cpu), int(threads))
            readings.append([float(result(i)) for i in range(_RESULTS)])
    except Exception as error:  # whatever TVM raises when a peer is gone
        words = str(error).strip().splitlines()
        return server, readings, f"{type(error).__name__}: {words[-1] if words else ''}"
    return server, readings, ""


def _request(tracker: tuple[str, int], key: str, session_s: float) -> tuple[str, Any]:
    """Wait for a free server; its address and a session with it.

    As `TrackerSession.request` does, which does not tell the address.
    """
    from tvm import rpc
    from tvm.rpc import base

    asked = rpc.connect_tracker(*tracker)
    base.sendjson(asked._sock, [base.TrackerCode.REQUEST, key, "", 1])
    code, *answer = base.recvjson(asked._sock)
    if code != base.TrackerCode.SUCCESS:
        raise OSError(f"the tracker gives no server: {answer}")
    url, port, match = answer[0]
    return f"{url}:{port}", rpc.connect(url, port, match, int(session_s))
