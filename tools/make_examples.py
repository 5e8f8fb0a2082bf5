"""Which inputs lie in `examples/`? A photograph and a canvas; this writes both again.

    python tools/make_examples.py

`image.npy`: float32 (1, 3, 224, 224), a photograph that scikit-image ships, normalised as the
networks of the papers expect. `canvas.npy`: float32 (1, 1, 112, 112), a test canvas.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from parc_hw.models.canvas_data import canvases
from parc_hw.models.samples import photographs

DIRECTORY = Path(__file__).resolve().parent.parent / "examples"
CANVAS_SEED = 7


def main() -> None:
    """Write the files and say what is in them."""
    image = photographs(1, 224, 224)
    images, labels = canvases("test", 1, CANVAS_SEED)
    for name, array in (("image.npy", image), ("canvas.npy", images)):
        np.save(DIRECTORY / name, array, allow_pickle=False)
        size = (DIRECTORY / name).stat().st_size
        print(f"examples/{name}: {array.dtype} {array.shape}, {size / 1024:.0f} KiB")
    print(f"the canvas's answer is {labels[0]}")


if __name__ == "__main__":
    main()
