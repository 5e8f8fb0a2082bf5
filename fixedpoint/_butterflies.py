"""What do the stages of each radix compute on vectors of frames, compiled?

Written by `python -m fixedpoint.butterfly`; do not edit. In `stage` functions the points are tuples
of numbers and the words stay in registers; the others work on rows of scratch arrays.
"""

from __future__ import annotations

from fixedpoint._inside import inside
from fixedpoint._points import (
    ALIGN,
    DIF,
    INVERSE,
    LEGS,
    SUM_FIRST,
    TURN_FIRST,
    before,
    behind,
    through,
)
from fixedpoint._vector import load, store


@inside()
def butterfly2(x, y):  # type: ignore[no-untyped-def]
    """Rows 0 to 1 of x to their transform in y."""
    yv0 = load(x, 0)
    yv2 = load(x, 2)
    yv4 = yv0 + yv2
    yv6 = yv0 - yv2
    yv1 = load(x, 1)
    yv3 = load(x, 3)
    yv5 = yv1 + yv3
    yv7 = yv1 - yv3
    y0 = yv4
    y2 = yv6
    y1 = yv5
    y3 = yv7
    store(y, 0, y0)
    store(y, 1, y1)
    store(y, 2, y2)
    store(y, 3, y3)


@inside()
def inner3(x, y, constants):  # type: ignore[no-untyped-def]
    """Rows 0 to 2 of x to sums in y."""
    c1 = constants[1]
    c2 = constants[2]
    yv2 = load(x, 2)
    yv4 = load(x, 4)
    yv6 = yv2 + yv4
    yv8 = yv2 - yv4
    yv14 = c2 * yv8
    yv0 = load(x, 0)
    yv10 = yv0 + yv6
    yv12 = c1 * yv6
    yv3 = load(x, 3)
    yv5 = load(x, 5)
    yv7 = yv3 + yv5
    yv9 = yv3 - yv5
    yv15 = c2 * yv9
    yv1 = load(x, 1)
    yv11 = yv1 + yv7
    yv13 = c1 * yv7
    y4 = yv14
    y0 = yv10
    y2 = yv12
    y5 = yv15
    y1 = yv11
    y3 = yv13
    store(y, 0, y0)
    store(y, 1, y1)
    store(y, 2, y2)
    store(y, 3, y3)
    store(y, 4, y4)
    store(y, 5, y5)


@inside()
def outer3(x, y, constants):  # type: ignore[no-untyped-def]
    """Row 0 of x and the sums of `inner3` in y to the transform in y."""
    c0 = constants[0]
    zv2 = load(y, 0)
    zv8 = c0 * zv2
    zv3 = load(y, 1)
    zv9 = c0 * zv3
    zv0 = load(x, 0)
    zv10 = c0 * zv0
    zv4 = load(y, 2)
    zv12 = zv4 + zv10
    zv7 = load(y, 5)
    zv14 = zv7 + zv12
    zv16 = zv12 - zv7
    zv1 = load(x, 1)
    zv11 = c0 * zv1
    zv5 = load(y, 3)
    zv13 = zv5 + zv11
    zv6 = load(y, 4)
    zv15 = zv13 - zv6
    zv17 = zv6 + zv13
    z0 = zv8
    z1 = zv9
    z2 = zv14
    z4 = zv16
    z3 = zv15
    z5 = zv17
    store(y, 0, z0)
    store(y, 1, z1)
    store(y, 2, z2)
    store(y, 3, z3)
    store(y, 4, z4)
    store(y, 5, z5)


@inside()
def butterfly4(x, y):  # type: ignore[no-untyped-def]
    """Rows 0 to 3 of x to their transform in y."""
    yv0 = load(x, 0)
    yv4 = load(x, 4)
    yv8 = yv0 + yv4
    yv12 = yv0 - yv4
    yv1 = load(x, 1)
    yv5 = load(x, 5)
    yv9 = yv1 + yv5
    yv13 = yv1 - yv5
    yv2 = load(x, 2)
    yv6 = load(x, 6)
    yv10 = yv2 + yv6
    yv14 = yv2 - yv6
    yv19 = yv13 - yv14
    yv23 = yv13 + yv14
    yv16 = yv8 + yv10
    yv20 = yv8 - yv10
    yv3 = load(x, 3)
    yv7 = load(x, 7)
    yv11 = yv3 + yv7
    yv15 = yv3 - yv7
    yv18 = yv12 + yv15
    yv22 = yv12 - yv15
    yv17 = yv9 + yv11
    yv21 = yv9 - yv11
    y3 = yv19
    y7 = yv23
    y0 = yv16
    y4 = yv20
    y2 = yv18
    y6 = yv22
    y1 = yv17
    y5 = yv21
    store(y, 0, y0)
    store(y, 1, y1)
    store(y, 2, y2)
    store(y, 3, y3)
    store(y, 4, y4)
    store(y, 5, y5)
    store(y, 6, y6)
    store(y, 7, y7)


@inside()
def inner5(x, y, constants):  # type: ignore[no-untyped-def]
    """Rows 0 to 4 of x to sums in y."""
    c1 = constants[1]
    c2 = constants[2]
    c3 = constants[3]
    c4 = constants[4]
    yv2 = load(x, 2)
    yv8 = load(x, 8)
    yv10 = yv2 + yv8
    yv14 = yv2 - yv8
    yv24 = c3 * yv14
    yv36 = c4 * yv14
    yv0 = load(x, 0)
    yv18 = yv0 + yv10
    yv22 = c1 * yv10
    yv34 = c2 * yv10
    yv3 = load(x, 3)
    yv9 = load(x, 9)
    yv11 = yv3 + yv9
    yv15 = yv3 - yv9
    yv25 = c3 * yv15
    yv37 = c4 * yv15
    yv1 = load(x, 1)
    yv19 = yv1 + yv11
    yv23 = c1 * yv11
    yv35 = c2 * yv11
    yv4 = load(x, 4)
    yv6 = load(x, 6)
    yv12 = yv4 + yv6
    yv20 = yv12 + yv18
    yv16 = yv4 - yv6
    yv30 = c4 * yv16
    yv32 = yv24 + yv30
    yv42 = c3 * yv16
    yv44 = yv36 - yv42
    yv26 = c2 * yv12
    yv28 = yv22 + yv26
    yv38 = c1 * yv12
    yv40 = yv34 + yv38
    yv5 = load(x, 5)
    yv7 = load(x, 7)
    yv13 = yv5 + yv7
    yv21 = yv13 + yv19
    yv17 = yv5 - yv7
    yv31 = c4 * yv17
    yv33 = yv25 + yv31
    yv43 = c3 * yv17
    yv45 = yv37 - yv43
    yv27 = c2 * yv13
    yv29 = yv23 + yv27
    yv39 = c1 * yv13
    yv41 = yv35 + yv39
    y0 = yv20
    y8 = yv32
    y6 = yv44
    y2 = yv28
    y4 = yv40
    y1 = yv21
    y9 = yv33
    y7 = yv45
    y3 = yv29
    y5 = yv41
    store(y, 0, y0)
    store(y, 1, y1)
    store(y, 2, y2)
    store(y, 3, y3)
    store(y, 4, y4)
    store(y, 5, y5)
    store(y, 6, y6)
    store(y, 7, y7)
    store(y, 8, y8)
    store(y, 9, y9)


@inside()
def outer5(x, y, constants):  # type: ignore[no-untyped-def]
    """Row 0 of x and the sums of `inner5` in y to the transform in y."""
    c0 = constants[0]
    zv2 = load(y, 0)
    zv12 = c0 * zv2
    zv3 = load(y, 1)
    zv13 = c0 * zv3
    zv0 = load(x, 0)
    zv14 = c0 * zv0
    zv4 = load(y, 2)
    zv16 = zv4 + zv14
    zv6 = load(y, 4)
    zv22 = zv6 + zv14
    zv9 = load(y, 7)
    zv24 = zv9 + zv22
    zv26 = zv22 - zv9
    zv11 = load(y, 9)
    zv18 = zv11 + zv16
    zv20 = zv16 - zv11
    zv1 = load(x, 1)
    zv15 = c0 * zv1
    zv5 = load(y, 3)
    zv17 = zv5 + zv15
    zv7 = load(y, 5)
    zv23 = zv7 + zv15
    zv8 = load(y, 6)
    zv25 = zv23 - zv8
    zv27 = zv8 + zv23
    zv10 = load(y, 8)
    zv19 = zv17 - zv10
    zv21 = zv10 + zv17
    z0 = zv12
    z1 = zv13
    z4 = zv24
    z6 = zv26
    z2 = zv18
    z8 = zv20
    z5 = zv25
    z7 = zv27
    z3 = zv19
    z9 = zv21
    store(y, 0, z0)
    store(y, 1, z1)
    store(y, 2, z2)
    store(y, 3, z3)
    store(y, 4, z4)
    store(y, 5, z5)
    store(y, 6, z6)
    store(y, 7, z7)
    store(y, 8, z8)
    store(y, 9, z9)


@inside()
def inner7(x, y, constants):  # type: ignore[no-untyped-def]
    """Rows 0 to 6 of x to sums in y."""
    c1 = constants[1]
    c2 = constants[2]
    c3 = constants[3]
    c4 = constants[4]
    c5 = constants[5]
    c6 = constants[6]
    yv2 = load(x, 2)
    yv12 = load(x, 12)
    yv14 = yv2 + yv12
    yv20 = yv2 - yv12
    yv34 = c4 * yv20
    yv54 = c5 * yv20
    yv74 = c6 * yv20
    yv0 = load(x, 0)
    yv26 = yv0 + yv14
    yv32 = c1 * yv14
    yv52 = c2 * yv14
    yv72 = c3 * yv14
    yv3 = load(x, 3)
    yv13 = load(x, 13)
    yv15 = yv3 + yv13
    yv21 = yv3 - yv13
    yv35 = c4 * yv21
    yv55 = c5 * yv21
    yv75 = c6 * yv21
    yv1 = load(x, 1)
    yv27 = yv1 + yv15
    yv33 = c1 * yv15
    yv53 = c2 * yv15
    yv73 = c3 * yv15
    yv4 = load(x, 4)
    yv10 = load(x, 10)
    yv16 = yv4 + yv10
    yv22 = yv4 - yv10
    yv28 = yv16 + yv26
    yv40 = c5 * yv22
    yv42 = yv34 + yv40
    yv60 = c6 * yv22
    yv62 = yv54 - yv60
    yv80 = c4 * yv22
    yv82 = yv74 - yv80
    yv36 = c2 * yv16
    yv38 = yv32 + yv36
    yv56 = c3 * yv16
    yv58 = yv52 + yv56
    yv76 = c1 * yv16
    yv78 = yv72 + yv76
    yv5 = load(x, 5)
    yv11 = load(x, 11)
    yv17 = yv5 + yv11
    yv23 = yv5 - yv11
    yv29 = yv17 + yv27
    yv41 = c5 * yv23
    yv43 = yv35 + yv41
    yv61 = c6 * yv23
    yv63 = yv55 - yv61
    yv81 = c4 * yv23
    yv83 = yv75 - yv81
    yv37 = c2 * yv17
    yv39 = yv33 + yv37
    yv57 = c3 * yv17
    yv59 = yv53 + yv57
    yv77 = c1 * yv17
    yv79 = yv73 + yv77
    yv6 = load(x, 6)
    yv8 = load(x, 8)
    yv18 = yv6 + yv8
    yv30 = yv18 + yv28
    yv24 = yv6 - yv8
    yv48 = c6 * yv24
    yv50 = yv42 + yv48
    yv68 = c4 * yv24
    yv70 = yv62 - yv68
    yv88 = c5 * yv24
    yv90 = yv82 + yv88
    yv44 = c3 * yv18
    yv46 = yv38 + yv44
    yv64 = c1 * yv18
    yv66 = yv58 + yv64
    yv84 = c2 * yv18
    yv86 = yv78 + yv84
    yv7 = load(x, 7)
    yv9 = load(x, 9)
    yv19 = yv7 + yv9
    yv31 = yv19 + yv29
    yv25 = yv7 - yv9
    yv49 = c6 * yv25
    yv51 = yv43 + yv49
    yv69 = c4 * yv25
    yv71 = yv63 - yv69
    yv89 = c5 * yv25
    yv91 = yv83 + yv89
    yv45 = c3 * yv19
    yv47 = yv39 + yv45
    yv65 = c1 * yv19
    yv67 = yv59 + yv65
    yv85 = c2 * yv19
    yv87 = yv79 + yv85
    y0 = yv30
    y12 = yv50
    y10 = yv70
    y8 = yv90
    y2 = yv46
    y4 = yv66
    y6 = yv86
    y1 = yv31
    y13 = yv51
    y11 = yv71
    y9 = yv91
    y3 = yv47
    y5 = yv67
    y7 = yv87
    store(y, 0, y0)
    store(y, 1, y1)
    store(y, 2, y2)
    store(y, 3, y3)
    store(y, 4, y4)
    store(y, 5, y5)
    store(y, 6, y6)
    store(y, 7, y7)
    store(y, 8, y8)
    store(y, 9, y9)
    store(y, 10, y10)
    store(y, 11, y11)
    store(y, 12, y12)
    store(y, 13, y13)


@inside()
def outer7(x, y, constants):  # type: ignore[no-untyped-def]
    """Row 0 of x and the sums of `inner7` in y to the transform in y."""
    c0 = constants[0]
    zv2 = load(y, 0)
    zv16 = c0 * zv2
    zv3 = load(y, 1)
    zv17 = c0 * zv3
    zv0 = load(x, 0)
    zv18 = c0 * zv0
    zv4 = load(y, 2)
    zv20 = zv4 + zv18
    zv15 = load(y, 13)
    zv22 = zv15 + zv20
    zv24 = zv20 - zv15
    zv6 = load(y, 4)
    zv26 = zv6 + zv18
    zv8 = load(y, 6)
    zv32 = zv8 + zv18
    zv11 = load(y, 9)
    zv34 = zv11 + zv32
    zv36 = zv32 - zv11
    zv13 = load(y, 11)
    zv28 = zv13 + zv26
    zv30 = zv26 - zv13
    zv1 = load(x, 1)
    zv19 = c0 * zv1
    zv5 = load(y, 3)
    zv21 = zv5 + zv19
    zv14 = load(y, 12)
    zv23 = zv21 - zv14
    zv25 = zv14 + zv21
    zv7 = load(y, 5)
    zv27 = zv7 + zv19
    zv9 = load(y, 7)
    zv33 = zv9 + zv19
    zv10 = load(y, 8)
    zv35 = zv33 - zv10
    zv37 = zv10 + zv33
    zv12 = load(y, 10)
    zv29 = zv27 - zv12
    zv31 = zv12 + zv27
    z0 = zv16
    z1 = zv17
    z2 = zv22
    z12 = zv24
    z6 = zv34
    z8 = zv36
    z4 = zv28
    z10 = zv30
    z3 = zv23
    z13 = zv25
    z7 = zv35
    z9 = zv37
    z5 = zv29
    z11 = zv31
    store(y, 0, z0)
    store(y, 1, z1)
    store(y, 2, z2)
    store(y, 3, z3)
    store(y, 4, z4)
    store(y, 5, z5)
    store(y, 6, z6)
    store(y, 7, z7)
    store(y, 8, z8)
    store(y, 9, z9)
    store(y, 10, z10)
    store(y, 11, z11)
    store(y, 12, z12)
    store(y, 13, z13)


@inside()
def stage2(work, kind, factor, option, product, total):  # type: ignore[no-untyped-def]
    """A stage of radix 2 on `work` (N, 2, lanes)."""
    legs, dif, align = option[LEGS], option[DIF], option[ALIGN]
    sum_first, turn_first = option[SUM_FIRST], option[TURN_FIRST]
    for group in range(work.shape[0] // (2 * legs)):
        for u in range(legs):
            r0 = group * 2 * legs + u
            r1 = r0 + legs
            x0 = load(work, 2 * r0)
            x1 = load(work, 2 * r0 + 1)
            x2 = load(work, 2 * r1)
            x3 = load(work, 2 * r1 + 1)
            if not dif:
                w, c, s = kind[r0], factor[r0, 0], factor[r0, 1]
                x0, x1 = before(x0, x1, w, c, s, align, product)
                w, c, s = kind[r1], factor[r1, 0], factor[r1, 1]
                x2, x3 = before(x2, x3, w, c, s, align, product)
            yv0 = x0
            yv2 = x2
            yv4 = yv0 + yv2
            yv6 = yv0 - yv2
            yv1 = x1
            yv3 = x3
            yv5 = yv1 + yv3
            yv7 = yv1 - yv3
            y0 = yv4
            y2 = yv6
            y1 = yv5
            y3 = yv7
            if dif:
                w, c, s = kind[r0], factor[r0, 0], factor[r0, 1]
                y0, y1 = behind(y0, y1, w, c, s, sum_first, turn_first, product, total)
                w, c, s = kind[r1], factor[r1, 0], factor[r1, 1]
                y2, y3 = behind(y2, y3, w, c, s, sum_first, turn_first, product, total)
            else:
                y0 = through(y0, total)
                y1 = through(y1, total)
                y2 = through(y2, total)
                y3 = through(y3, total)
            store(work, 2 * r0, y0)
            store(work, 2 * r0 + 1, y1)
            store(work, 2 * r1, y2)
            store(work, 2 * r1 + 1, y3)


@inside()
def stage4(work, kind, factor, option, product, total):  # type: ignore[no-untyped-def]
    """A stage of radix 4 on `work` (N, 2, lanes)."""
    legs, dif, align = option[LEGS], option[DIF], option[ALIGN]
    sum_first, turn_first = option[SUM_FIRST], option[TURN_FIRST]
    inverse = option[INVERSE]
    for group in range(work.shape[0] // (4 * legs)):
        for u in range(legs):
            r0 = group * 4 * legs + u
            r1 = r0 + legs
            r2 = r1 + legs
            r3 = r2 + legs
            x0 = load(work, 2 * r0)
            x1 = load(work, 2 * r0 + 1)
            x2 = load(work, 2 * r1)
            x3 = load(work, 2 * r1 + 1)
            x4 = load(work, 2 * r2)
            x5 = load(work, 2 * r2 + 1)
            x6 = load(work, 2 * r3)
            x7 = load(work, 2 * r3 + 1)
            if not dif:
                w, c, s = kind[r0], factor[r0, 0], factor[r0, 1]
                x0, x1 = before(x0, x1, w, c, s, align, product)
                w, c, s = kind[r1], factor[r1, 0], factor[r1, 1]
                x2, x3 = before(x2, x3, w, c, s, align, product)
                w, c, s = kind[r2], factor[r2, 0], factor[r2, 1]
                x4, x5 = before(x4, x5, w, c, s, align, product)
                w, c, s = kind[r3], factor[r3, 0], factor[r3, 1]
                x6, x7 = before(x6, x7, w, c, s, align, product)
            yv0 = x0
            yv4 = x4
            yv8 = yv0 + yv4
            yv12 = yv0 - yv4
            yv1 = x1
            yv5 = x5
            yv9 = yv1 + yv5
            yv13 = yv1 - yv5
            yv2 = x2
            yv6 = x6
            yv10 = yv2 + yv6
            yv14 = yv2 - yv6
            yv19 = yv13 - yv14
            yv23 = yv13 + yv14
            yv16 = yv8 + yv10
            yv20 = yv8 - yv10
            yv3 = x3
            yv7 = x7
            yv11 = yv3 + yv7
            yv15 = yv3 - yv7
            yv18 = yv12 + yv15
            yv22 = yv12 - yv15
            yv17 = yv9 + yv11
            yv21 = yv9 - yv11
            y3 = yv19
            y7 = yv23
            y0 = yv16
            y4 = yv20
            y2 = yv18
            y6 = yv22
            y1 = yv17
            y5 = yv21
            if inverse:
                y2, y3, y6, y7 = y6, y7, y2, y3
            if dif:
                w, c, s = kind[r0], factor[r0, 0], factor[r0, 1]
                y0, y1 = behind(y0, y1, w, c, s, sum_first, turn_first, product, total)
                w, c, s = kind[r1], factor[r1, 0], factor[r1, 1]
                y2, y3 = behind(y2, y3, w, c, s, sum_first, turn_first, product, total)
                w, c, s = kind[r2], factor[r2, 0], factor[r2, 1]
                y4, y5 = behind(y4, y5, w, c, s, sum_first, turn_first, product, total)
                w, c, s = kind[r3], factor[r3, 0], factor[r3, 1]
                y6, y7 = behind(y6, y7, w, c, s, sum_first, turn_first, product, total)
            else:
                y0 = through(y0, total)
                y1 = through(y1, total)
                y2 = through(y2, total)
                y3 = through(y3, total)
                y4 = through(y4, total)
                y5 = through(y5, total)
                y6 = through(y6, total)
                y7 = through(y7, total)
            store(work, 2 * r0, y0)
            store(work, 2 * r0 + 1, y1)
            store(work, 2 * r1, y2)
            store(work, 2 * r1 + 1, y3)
            store(work, 2 * r2, y4)
            store(work, 2 * r2 + 1, y5)
            store(work, 2 * r3, y6)
            store(work, 2 * r3 + 1, y7)
