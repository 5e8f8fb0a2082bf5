"""Runs an imported module through TVM's own default pipeline: the importer's numeric oracle."""

from collections import Counter

import numpy as np
import torch
import tvm
from torch.utils._pytree import tree_leaves
from tvm import relax

from parc_hw.importers import import_torch
from parc_hw.lower import _tvm


def run_vm(module, *inputs):
    """Outputs of `main` as a list of arrays."""
    executable = tvm.compile(module, target=tvm.target.Target({"kind": "llvm"}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    result = machine["main"](*(tvm.runtime.tensor(np.ascontiguousarray(x)) for x in inputs))
    return [part.numpy() for part in ([result] if hasattr(result, "numpy") else result)]


def operators(module):
    """How often each operator of `main` occurs, without the prefix `relax.`."""
    values = [value for _, value in _tvm.bindings(module["main"])]
    return Counter(v.op.name.removeprefix("relax.") for v in values if _tvm.is_call(v))


def check_against_torch(model, *shapes, seed=0):
    """Import `model`, run it, compare with torch; returns the Imported.

    Both sides compute the same sums in float32, in another order: the nets here are at most
    some 200 roundings of 2^-24 deep, relative to the largest intermediate, which is not far
    above the largest output.
    """
    imported = import_torch(model, list(shapes))
    relax.analysis.well_formed(imported.module)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    with torch.no_grad():
        wanted = model.eval()(*inputs)
    wanted = tree_leaves(wanted)
    seen = run_vm(imported.module, *(x.numpy() for x in inputs))
    assert len(seen) == len(wanted) == len(imported.outputs)
    for ours, torchs, boundary in zip(seen, wanted, imported.outputs, strict=True):
        assert ours.shape == tuple(torchs.shape) == boundary.shape
        limit = 200 * 2.0**-24 * max(1.0, float(torchs.abs().max()))
        assert np.abs(ours - torchs.numpy()).max() <= limit
    return imported
