"""How are the canvas networks trained, and how good are they on unseen glyphs?"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from parc_hw.errors import InputError
from parc_hw.models.canvas import create_canvas
from parc_hw.models.canvas_data import DIGITS, canvases
from parc_hw.models.proportion import wilson

__all__ = [
    "EPOCHS",
    "EPOCH_CANVASES",
    "TEST_SEEDS",
    "Training",
    "answers",
    "measure",
    "train",
]

#: `progress(stage, done, total, message)`.
Progress: TypeAlias = Callable[[str, int, int, str], None]

DEFAULT_SEED: Final = 20220727
EPOCHS: Final = 24
EPOCH_CANVASES: Final = 4096  # each drawn afresh: no canvas is seen twice
BATCH: Final = 32
#: This part of the epochs shows one digit each: what a glyph is, before which one counts.
SINGLE_DIGIT: Final = 0.2
LEARNING_RATE: Final = 2e-3
WARM_UP: Final = 400  # batches
WEIGHT_DECAY: Final = 0.05
LABEL_SMOOTHING: Final = 0.05
GRADIENT_NORM: Final = 1.0
#: Accuracy is stated on `canvases("test", TEST_CANVASES, seed)` for each of these seeds.
TEST_SEEDS: Final = tuple(range(20))
TEST_CANVASES: Final = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What was trained and how good it became.

    Attributes
    ----------
    name, position_embedding, seed, epochs, threads
        What would make the same weights again on the same machine and versions.
    canvases : int
        Training canvases seen, each once.
    losses : tuple of float
        Mean training loss of each epoch.
    correct, tested : int
        Right answers and test canvases.
    cpu_s, wall_s : float
        Time of the training, without the test.
    """

    name: str
    position_embedding: bool
    seed: int
    epochs: int
    threads: int
    canvases: int
    losses: tuple[float, ...]
    correct: int
    tested: int
    cpu_s: float
    wall_s: float

    @property
    def accuracy(self) -> float:
        """Right answers over test canvases."""
        return self.correct / self.tested

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson 95 % interval of the accuracy."""
        return wilson(self.correct, self.tested)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary, accuracy and interval included."""
        return {**asdict(self), "accuracy": self.accuracy, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.epochs} epoch{'s' * (self.epochs > 1)} of {EPOCH_CANVASES} canvases in {self.wall_s:.0f} s; "
            f"test accuracy {self.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%}, "
            f"{self.tested} canvases of unseen glyphs)"
        )


def train(
    name: str,
    *,
    output: str | os.PathLike[str] | None,
    seed: int = DEFAULT_SEED,
    epochs: int | None = None,
    progress: Progress | None = None,
    position_embedding: bool = True,
    test_seeds: Iterable[int] = TEST_SEEDS,
) -> Training:
    """Train a canvas network from nothing, test it, and write its weights.

    Parameters
    ----------
    name : "parc_canvas" or "conv_canvas"
    output : path or None
        The .safetensors file to write, whole or not at all; an existing one is replaced.
        None writes nothing.
    seed : int
        At least 0. Chooses the initial weights and all canvases.
    epochs : int or None
        At least 1; None for `EPOCHS`, as the shipped weights. The learning rate is annealed
        over all of them, so fewer epochs are another training, not a part of this one.
    progress : callable or None
        `progress(stage, done, total, message)` with the stages "train" and "test".
    position_embedding : bool
        False trains `parc_canvas` without position embeddings.
    test_seeds : iterable of int
        Seeds of the test canvases, `TEST_CANVASES` each.

    Returns
    -------
    Training

    Raises
    ------
    InputError
        A name, seed or number of epochs that is not accepted, no test seeds, or an output that
        cannot be written; found before the training starts.

    Notes
    -----
    Equal arguments give equal weights, bit by bit, on one machine with one version of torch
    and one number of threads (`torch.get_num_threads()`). Another processor, version or
    number of threads sums in another order; training amplifies that to other weights of about
    the same accuracy.
    """
    epochs = EPOCHS if epochs is None else epochs
    for what, value, least in (("epochs", epochs, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"{what} must be a whole number of at least {least}, not {value!r}.")
    seeds = tuple(test_seeds)
    if not seeds:
        raise InputError(
            "test_seeds must hold at least one seed: an untested network says nothing."
        )
    path = None if output is None else Path(output)
    if path is not None and (path.is_dir() or not os.access(path.absolute().parent, os.W_OK)):
        raise InputError(
            f"cannot write {path}: give the name of a .safetensors file in a directory that "
            "exists and that you may write to."
        )
    report: Progress = progress or (lambda stage, done, total, message: None)
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        torch.manual_seed(seed)
        network = create_canvas(name, pretrained=False, position_embedding=position_embedding)
    cpu, wall = time.process_time(), time.monotonic()
    losses = _fit(network, seed, epochs, report)
    cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    correct, tested = measure(network, seeds, report, count=TEST_CANVASES)
    result = Training(
        name=name,
        position_embedding=position_embedding and name == "parc_canvas",
        seed=seed,
        epochs=epochs,
        threads=torch.get_num_threads(),
        canvases=epochs * EPOCH_CANVASES,
        losses=tuple(losses),
        correct=correct,
        tested=tested,
        cpu_s=cpu,
        wall_s=wall,
    )
    if path is not None:
        _write(network, path, result)
    return result


def measure(
    network: nn.Module,
    seeds: Iterable[int] = TEST_SEEDS,
    progress: Progress | None = None,
    *,
    count: int = TEST_CANVASES,
) -> tuple[int, int]:
    """Count a network's right answers on `canvases("test", count, seed)` for each seed.

    Returns
    -------
    correct, tested : int
    """
    seeds = tuple(seeds)
    correct = 0
    for done, seed in enumerate(seeds, start=1):
        images, labels = canvases("test", count, seed)
        correct += int((answers(network, images) == labels).sum())
        if progress is not None:
            progress("test", done, len(seeds), f"accuracy {correct / (done * count):.2%}")
    return correct, len(seeds) * count


def answers(
    network: nn.Module, images: npt.NDArray[np.float32], *, batch: int = 256
) -> npt.NDArray[np.int64]:
    """Return the class that a network gives each image, shape (n,); puts it in eval mode."""
    network.eval()
    with torch.no_grad():
        found = [
            network(torch.from_numpy(images[start : start + batch])).argmax(dim=1).numpy()
            for start in range(0, len(images), batch)
        ]
    return np.concatenate(found)


def with_sorted_header(data: bytes) -> bytes:
    """Sort the JSON header of a safetensors file, so that equal contents are equal bytes.

    safetensors writes metadata in the order of a hash table that differs in every process.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.dumps(json.loads(data[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors stay aligned
    return len(header).to_bytes(8, "little") + header + data[end:]


def _fit(network: nn.Module, seed: int, epochs: int, report: Progress) -> list[float]:
    """Train in place; return the mean loss of each epoch."""
    optimiser = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    per_epoch = EPOCH_CANVASES // BATCH
    steps = epochs * per_epoch

    def rate(step: int) -> float:
        warm = min(1.0, (step + 1) / min(WARM_UP, steps))
        return warm * (1 + math.cos(math.pi * step / steps)) / 2

    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, rate)
    epoch_seeds = np.random.SeedSequence(seed).generate_state(epochs)
    losses = []
    network.train()
    report("train", 0, epochs, "")
    for epoch in range(epochs):
        digits = 1 if epoch < round(SINGLE_DIGIT * epochs) else DIGITS
        images, labels = (
            torch.from_numpy(array)
            for array in canvases("train", EPOCH_CANVASES, int(epoch_seeds[epoch]), digits=digits)
        )
        total = 0.0
        for start in range(0, EPOCH_CANVASES, BATCH):
            batch = slice(start, start + BATCH)
            logits: Tensor = network(images[batch])
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=LABEL_SMOOTHING)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            total += loss.item()
        losses.append(total / per_epoch)
        report("train", epoch + 1, epochs, f"loss {losses[-1]:.4f}, {digits} digit(s)")
    return losses


def _write(network: nn.Module, path: Path, result: Training) -> None:
    from safetensors.torch import save

    low, high = result.interval
    # No times here: the same training writes the same bytes.
    metadata = {
        "model": result.name,
        "position_embedding": str(result.position_embedding),
        "seed": str(result.seed),
        "epochs": str(result.epochs),
        "accuracy": f"{result.accuracy:.4f} ({low:.4f} to {high:.4f}, n = {result.tested})",
        "command": (
            f"parc-hw --seed {result.seed} train {result.name} --epochs {result.epochs} "
            f"-o {path.name}"
        ),
        "torch": torch.__version__,
        "threads": str(result.threads),
    }
    data = save({k: v.contiguous() for k, v in network.state_dict().items()}, metadata)
    data = with_sorted_header(data)
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
