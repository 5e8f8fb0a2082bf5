"""How good are the canvas networks? Trains and tests all three and writes down what came out.

    python tools/canvas_accuracy.py            about 25 minutes on two cores
    python tools/canvas_accuracy.py --table    only the table of docs/accuracy.md, from the JSON

Writes `parc_hw/models/weights/`: the weights of parc_canvas and conv_canvas, and `accuracy.json`.
"""

from __future__ import annotations

import json
import platform
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ROOT / "parc_hw" / "models" / "weights"
RECORDS = WEIGHTS / "accuracy.json"
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- canvas table: begin -->", "<!-- canvas table: end -->"

#: Name, position embedding, whether the weights are shipped.
RUNS = (("parc_canvas", True, True), ("parc_canvas", False, False), ("conv_canvas", False, True))


def record(training: dict[str, Any], *, shipped: bool) -> dict[str, Any]:
    """One entry of the JSON from `Training.to_json()`."""
    from parc_hw.models.canvas import create_canvas, shipped_weights

    name = training["name"]
    blind = name == "parc_canvas" and not training["position_embedding"]
    network = create_canvas(name, pretrained=False, position_embedding=not blind)
    kept = ("name", "position_embedding", "seed", "epochs", "threads", "canvases")
    measured = ("tested", "correct", "accuracy", "interval")
    return {
        **{key: training[key] for key in kept},
        "parameters": sum(p.numel() for p in network.parameters()),
        "weights_bytes": shipped_weights(name).stat().st_size if shipped else None,
        "training_cpu_s": round(training["cpu_s"]),
        **{key: training[key] for key in measured},
    }


def write(networks: list[dict[str, Any]]) -> None:
    """Write the JSON, entries in the order of `RUNS`."""
    import torch

    from parc_hw.models.canvas_train import TEST_CANVASES, TEST_SEEDS

    document = {
        "generator": "tools/canvas_accuracy.py",
        "test_set": {
            "call": f'canvases("test", {TEST_CANVASES}, seed)',
            "seeds": list(TEST_SEEDS),
        },
        "torch": torch.__version__,
        "machine": platform.machine(),
        "networks": networks,
    }
    RECORDS.write_text(json.dumps(document, indent=2) + "\n")


def table(document: dict[str, Any]) -> str:
    """The table of docs/accuracy.md as Markdown."""
    lines = [
        "| network | position embedding | parameters | weights | training | "
        "test accuracy | 95 % interval |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in document["networks"]:
        low, high = entry["interval"]
        weights = entry["weights_bytes"]
        embedding = "no" if entry["name"] == "parc_canvas" else "none to have"
        cells = (
            f"`{entry['name']}`",
            "yes" if entry["position_embedding"] else embedding,
            f"{entry['parameters']:,}",
            "not shipped" if weights is None else f"{weights / 1e6:.2f} MB",
            f"{entry['canvases']:,} canvases, {entry['training_cpu_s']} CPU s",
            f"**{entry['accuracy']:.2%}** of {entry['tested']:,}",
            f"{low:.2%} to {high:.2%}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def update_page() -> None:
    """Put the table between the two marks of docs/accuracy.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document = json.loads(RECORDS.read_text())
    PAGE.write_text(f"{before}{BEGIN}\n{table(document)}\n{END}{after}")


def main(arguments: list[str]) -> None:
    """Train, test, write; or only write the table."""
    if arguments != ["--table"]:
        from parc_hw.models.canvas import shipped_weights
        from parc_hw.models.canvas_train import train

        networks = []
        for name, embedding, shipped in RUNS:
            training = train(
                name,
                output=shipped_weights(name) if shipped else None,
                position_embedding=embedding or name != "parc_canvas",
                progress=lambda *state: print(*state, flush=True),
            )
            print(f"{name}, position embedding {training.position_embedding}: {training}")
            networks.append(record(training.to_json(), shipped=shipped))
        write(networks)
    update_page()


if __name__ == "__main__":
    main(sys.argv[1:])
