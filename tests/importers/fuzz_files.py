"""Reads many damaged copies of one file: `python fuzz_files.py KIND COUNT SEED DIRECTORY`.

Prints each sample's number before it is read, so that a crash names it. Whatever is raised but
our own errors, and whatever takes longer than a minute, ends the run with status 1.
"""

import io
import resource
import signal
import sys
import traceback
import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import nn

from parc_hw.errors import ParcError

LIMIT_BYTES = 12 * 2**30  # of address space: TVM and torch map some 4 GiB


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(64, 5),
    ).eval()  # fmt: skip


def make(kind, path):
    """The sound file."""
    from parc_hw.importers import import_torch
    from parc_hw.importers.export import export_onnx

    shape = (1, 3, 8, 8)
    if kind == "onnx":
        export_onnx(import_torch(network(), [shape]), path)
    elif kind == "pt2":
        torch.export.save(torch.export.export(network(), (torch.zeros(shape),)), path)
    else:
        torch.save(network().state_dict(), path)


def read(kind, path):
    from parc_hw import models
    from parc_hw.importers import import_model

    if kind == "pt":
        models.load_official(network(), models.read_checkpoint(path))
    else:
        import_model(path)


def mutated(data, rng):
    """One to four small damages: bits, bytes, pieces gone, doubled, moved, a cut end."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        if len(data) < 8:
            break
        at = int(rng.integers(0, len(data)))
        size = int(rng.integers(1, 17))
        match rng.integers(0, 7):
            case 0:
                data[at] ^= 1 << int(rng.integers(0, 8))
            case 1:
                data[at] = int(rng.integers(0, 256))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at : at + size] = rng.bytes(size)
            case 5:
                data[at : at + 1] = b"%d" % rng.choice([0, 1, 9, 99, 2**31, 2**63])
            case 6:
                del data[max(at, len(data) // 2) :]
    return bytes(data)


def damaged(kind, data, rng):
    """A damaged copy; every other archive has sound checksums around a damaged entry."""
    if kind == "onnx" or rng.integers(0, 2):
        return mutated(data, rng)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    texts = [name for name in entries if name.endswith((".json", ".pkl"))]
    names = texts if rng.integers(0, 4) else list(entries)
    name = names[rng.integers(0, len(names))]
    entries[name] = mutated(entries[name], rng)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def main(kind, count, seed, directory):
    resource.setrlimit(resource.RLIMIT_AS, (LIMIT_BYTES, LIMIT_BYTES))
    rng = np.random.default_rng(int(seed))
    path = Path(directory) / f"m.{kind}"
    make(kind, path)
    read(kind, path)
    data = path.read_bytes()
    accepted = 0
    for number in range(int(count)):
        path.write_bytes(damaged(kind, data, rng))
        print(number, flush=True)
        signal.alarm(60)
        try:
            read(kind, path)
            accepted += 1
        except ParcError:
            pass
        except BaseException:
            traceback.print_exc()
            print(f"sample {number} of {kind}, seed {seed}", file=sys.stderr)
            return 1
        signal.alarm(0)
    print(f"read {accepted} of {count}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
