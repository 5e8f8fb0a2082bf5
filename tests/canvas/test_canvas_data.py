"""Is a canvas what it says: three unseen glyphs, one clear answer, the same bytes every time?"""

from __future__ import annotations

import builtins
import itertools
import math
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

from parc_hw.errors import InputError, ToolchainError
from parc_hw.models import canvas_data
from parc_hw.models.canvas_data import (
    CANVAS,
    CLASSES,
    DIGITS,
    GLYPH,
    MARGIN,
    canvases,
    glyph_indices,
    scenes,
)


def boxes(scene, n):
    """(row, column, size, class, glyph) of each digit of canvas n."""
    return [
        (
            int(scene.rows[n, k]),
            int(scene.columns[n, k]),
            GLYPH * int(scene.scales[n, k]),
            int(scene.classes[n, k]),
            int(scene.glyphs[n, k]),
        )
        for k in range(scene.glyphs.shape[1])
    ]


def test_equal_seeds_give_equal_bytes_and_other_seeds_and_splits_other_canvases():
    images, labels = canvases("test", 40, 7)
    again, labels_again = canvases("test", 40, 7)
    assert images.tobytes() == again.tobytes()
    assert labels.tobytes() == labels_again.tobytes()
    assert not np.array_equal(images, canvases("test", 40, 8)[0])
    assert not np.array_equal(images, canvases("train", 40, 7)[0])


def test_the_first_canvases_do_not_depend_on_how_many_are_drawn():
    images, labels = canvases("train", 600, 3)  # three blocks of the generator
    for count in (0, 1, 255, 256, 257):
        fewer, fewer_labels = canvases("train", count, 3)
        assert fewer.shape == (count, 1, CANVAS, CANVAS)
        assert np.array_equal(fewer, images[:count])
        assert np.array_equal(fewer_labels, labels[:count])


def test_images_are_float32_of_whole_255ths_between_0_and_1():
    images, labels = canvases("test", 16, 0)
    assert images.shape == (16, 1, 112, 112)
    assert (images.dtype, labels.dtype, labels.shape) == (np.float32, np.int64, (16,))
    assert images.min() >= 0
    assert images.max() <= 1
    assert np.array_equal(np.round(images * 255).astype(np.float32) / np.float32(255), images)


def test_no_glyph_is_in_both_splits_not_even_as_a_copy():
    train, test = glyph_indices("train"), glyph_indices("test")
    assert sorted([*train, *test]) == list(range(1797))
    images = load_digits().images.astype(int).reshape(1797, -1)
    shared = {tuple(row) for row in images[train]} & {tuple(row) for row in images[test]}
    assert not shared


@pytest.mark.parametrize("split", ["train", "test"])
def test_canvases_show_glyphs_of_their_split_alone_and_nearly_all_of_them(split):
    scene = scenes(split, 2048, 0)
    allowed = set(glyph_indices(split).tolist())
    seen = set(scene.glyphs.ravel().tolist())
    assert seen <= allowed
    # A glyph is missed by 6144 draws with probability exp(-6144 / 1257) < 1 %.
    assert len(seen) > 0.95 * len(allowed)


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_label_is_the_digit_nearest_the_top_left_corner_by_a_clear_margin(split):
    target = load_digits().target
    scene = scenes(split, 512, 1)
    _, labels = canvases(split, 512, 1)
    for n in range(512):
        digits = boxes(scene, n)
        assert len(digits) == DIGITS == len({digit for *_, digit, _ in digits})
        by_distance = sorted(
            (math.hypot(row + size / 2, column + size / 2), target[glyph])
            for row, column, size, _, glyph in digits
        )
        assert by_distance[0][1] == labels[n]
        assert by_distance[1][0] - by_distance[0][0] >= MARGIN - 1e-9
        for (r1, c1, s1, *_), (r2, c2, s2, *_) in itertools.combinations(digits, 2):
            assert r1 + s1 <= r2 or r2 + s2 <= r1 or c1 + s1 <= c2 or c2 + s2 <= c1
        for row, column, size, digit, glyph in digits:
            assert 0 <= row <= CANVAS - size
            assert 0 <= column <= CANVAS - size
            assert target[glyph] == digit


def test_every_digit_is_painted_where_its_scene_says():
    scene = scenes("test", 64, 2)
    images, _ = canvases("test", 64, 2)
    glyphs = load_digits().images
    for n in range(64):
        for k, (row, column, size, _, glyph) in enumerate(boxes(scene, n)):
            place = images[n, 0, row : row + size, column : column + size]
            scale = size // GLYPH
            means = place.reshape(GLYPH, scale, GLYPH, scale).mean(axis=(1, 3))
            # Noise is even and bars are few: cell means follow the glyph's ink.
            assert np.corrcoef(means.ravel(), glyphs[glyph].ravel())[0, 1] > 0.75, (n, k)


def test_all_classes_are_equally_frequent_within_five_deviations():
    _, labels = canvases("test", 2000, 5)
    counts = np.bincount(labels, minlength=CLASSES)
    assert np.abs(counts - 200).max() <= 5 * math.sqrt(2000 * 0.1 * 0.9)


def test_where_things_are_decides_no_digit_rules_and_no_place_rules():
    """The answer is not the largest, the first drawn or the leftmost digit."""
    scene = scenes("test", 2000, 6)
    answer = scene.distances.argmin(axis=1)
    for rival in (
        scene.scales.argmax(axis=1),
        scene.contrasts.argmax(axis=1),
        np.zeros(2000, int),
    ):
        # A third of 2000, within five deviations: these tell nothing.
        assert abs((rival == answer).sum() - 2000 / 3) <= 5 * math.sqrt(2000 * 2 / 9)
    for rival in (scene.rows.argmin(axis=1), scene.columns.argmin(axis=1)):
        assert (rival == answer).mean() < 0.85  # one coordinate helps and does not suffice


@pytest.mark.parametrize("digits", [1, 2])
def test_easier_canvases_show_fewer_digits(digits):
    scene = scenes("train", 100, 0, digits=digits)
    assert scene.glyphs.shape == (100, digits)
    images, labels = canvases("train", 100, 0, digits=digits)
    assert images.shape == (100, 1, 112, 112)
    assert np.array_equal(labels, scene.labels)
    if digits == 1:
        assert np.array_equal(labels, scene.classes[:, 0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tset", 1, 0), r"unknown split 'tset': one of train, test\. Did you mean test\?"),
        (("test", -1, 0), r"count must be a whole number of at least 0, not -1"),
        (("test", 1.5, 0), r"count must be .* not 1.5"),
        (("test", 1, -2), r"seed must be a whole number of at least 0, not -2"),
        (("test", 1, True), r"seed must be .* not True"),
    ],
)
def test_arguments_that_describe_no_canvases_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        canvases(*arguments)


@pytest.mark.parametrize("digits", [0, 4])
def test_more_or_fewer_digits_than_fit_are_refused(digits):
    with pytest.raises(InputError, match=rf"digits must be 1 to 3, not {digits}"):
        canvases("test", 1, 0, digits=digits)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.partition(".")[0] == "sklearn":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without)
    canvas_data._digits.cache_clear()
    with pytest.raises(ToolchainError, match="not installed: pip install scikit-learn"):
        glyph_indices("test")
