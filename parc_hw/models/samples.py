"""On which real inputs is a compiled model checked?

Random noise hides divergence that real images show, so photographs that scikit-image ships
(and canvases for the canvas networks) come first; noise is used only where neither fits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from parc_hw.errors import ParcError

__all__ = ["photographs", "sample_inputs"]

_PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def photographs(
    count: int,
    height: int,
    width: int,
    *,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    channel_order: str = "RGB",
) -> np.ndarray:
    """Real photographs as network input.

    Parameters
    ----------
    count : int
        How many, at most 4.
    height, width : int
        Size in pixels; the centre square of each photograph is resized to it.
    mean, std : sequence of float
        Per channel, of values in [0, 1]; subtracted and divided by.
    channel_order : str
        "RGB" or "BGR".

    Returns
    -------
    float32 array, shape (count, 3, height, width)

    Raises
    ------
    ParcError
        scikit-image is not installed.
    """
    try:
        from skimage import data, transform
    except ImportError:
        raise ParcError(
            "real photographs come from scikit-image, which is not installed. "
            'Install it: pip install "parc_hw[torch]"'
        ) from None
    if count > len(_PHOTOGRAPHS):
        raise ParcError(
            f"{count} photographs were asked for; at most {len(_PHOTOGRAPHS)} are used."
        )
    images = []
    for name in _PHOTOGRAPHS[:count]:
        image = getattr(data, name)()
        side = min(image.shape[:2])
        top, left = (image.shape[0] - side) // 2, (image.shape[1] - side) // 2
        square = image[top : top + side, left : left + side, :3]
        resized = transform.resize(square, (height, width), order=1, anti_aliasing=True)
        channels = resized[..., ::-1] if channel_order == "BGR" else resized
        images.append(((channels - np.asarray(mean)) / np.asarray(std)).transpose(2, 0, 1))
    return np.ascontiguousarray(np.stack(images), np.float32)


def sample_inputs(
    shape: Sequence[int],
    count: int,
    *,
    canvas: bool = False,
    mean: Sequence[float] = _IMAGENET_MEAN,
    std: Sequence[float] = _IMAGENET_STD,
    channel_order: str = "RGB",
    seed: int = 0,
) -> tuple[str, list[np.ndarray]]:
    """Inputs of shape `shape` to check a model on.

    Returns
    -------
    description : str
        What they are, for reports.
    inputs : list of float32 arrays, each of shape `shape`
    """
    batch = shape[0]
    if canvas:
        from parc_hw.models.canvas_data import canvases

        images, _ = canvases("test", count * batch, seed)
        description = "test canvases"
    elif len(shape) == 4 and shape[1] == 3:
        count = min(count, 4 // batch) or 1
        total = min(count * batch, 4)
        images = photographs(
            total, shape[2], shape[3], mean=mean, std=std, channel_order=channel_order
        )
        images = images[np.arange(count * batch) % total]
        description = "photographs of scikit-image"
    else:
        rng = np.random.default_rng(seed)
        images = rng.standard_normal((count * batch, *shape[1:])).astype(np.float32)
        description = "random noise (no real data fits this shape)"
    return description, [images[k * batch : (k + 1) * batch] for k in range(count)]
