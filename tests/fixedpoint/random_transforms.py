"""Random plans and datapaths, with every field in use: what a transform's oracle is compared on."""

from fixedpoint import QFormat
from fixedpoint.modes import Overflow, Rounding
from fixedpoint.scaling import BlockRule, BlockScaling
from fixedpoint.stage import FftDatapath, Point, StageDatapath, Trivial
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.plan import Decimation, FftPlan, Order


class Chooser:
    """Draws plans and datapaths from a numpy generator."""

    def __init__(self, rng):
        self.rng = rng

    def one(self, *choices):
        return choices[int(self.rng.integers(len(choices)))]

    def whole(self, low, high):
        """An integer of low .. high."""
        return int(self.rng.integers(low, high + 1))

    def sometimes(self, share):
        return bool(self.rng.random() < share)

    def plan(self, longest=48):
        radices, length = [], 1
        while not radices or not self.sometimes(0.2):
            radix = self.one(2, 2, 2, 3, 4, 4, 5, 7)
            if length * radix > longest:
                break
            radices.append(radix)
            length *= radix
        groups, left = [], len(radices)
        while left and self.sometimes(0.5):
            groups.append(self.whole(1, left))
            left -= groups[-1]
        return FftPlan(
            radices=tuple(radices),
            decimation=self.one(*Decimation),
            input_order=self.one(*Order),
            output_order=self.one(*Order),
            groups=(*groups, *[1] * left),
        )

    def twiddle(self):
        bits = self.whole(3, 17)
        return TwiddleFormat(
            bits=bits,
            frac_bits=self.whole(bits - 2, bits - 1),
            rounding=self.one(*Rounding),
            add=self.one(0.0, 0.0, 0.05),
            below_one=self.sometimes(0.2),
            first_frac_bits=self.one(None, None, 18),
        )

    def point(self, bits, shift=0, **fields):
        return Point(
            shift=shift,
            rounding=self.one(*Rounding),
            bits=bits,
            overflow=self.one(Overflow.SATURATE, Overflow.WRAP),
            **fields,
        )

    def registers(self, bits, wide):
        """from_bits and then_bits, now and then."""
        if not self.sometimes(0.3):
            return {}
        return {"from_bits": self.one(None, wide), "then_bits": self.one(None, None, bits - 1)}

    def stage(self, dif, bits, shift):
        twiddle = self.twiddle()
        each = None
        if self.sometimes(0.3):
            guard = self.whole(0, 2)
            each = self.point(self.one(None, bits + 2), self.whole(-1, 1), guard=guard)
        taken = 0 if each is None else each.shift
        sum_first = dif and self.sometimes(0.5)
        wide = bits + twiddle.bits
        if dif:
            left = (0 if sum_first else shift) - taken
            product = self.point(bits, left, **self.registers(bits, wide))
        elif taken == 0 and self.sometimes(0.4):
            product = None
        else:
            product = self.point(bits + 1, -taken, guard=self.whole(0, 3))
        constants = self.one(None, self.point(self.one(None, bits + 4), guard=self.whole(0, 3)))
        plain = self.sometimes(0.6)
        return StageDatapath(
            sum=self.point(bits, shift, **self.registers(bits, bits + shift + 4)),
            product=product,
            twiddle=twiddle,
            input=None if plain else self.point(self.one(None, bits), self.whole(0, 1)),
            each=each,
            constants=constants,
            constant=self.one(None, TwiddleFormat(bits=12)),
            output=None if plain else self.point(bits, self.whole(0, 1)),
            trivial=self.one(*Trivial),
            turn_first=self.sometimes(0.5),
            sum_first=sum_first,
        )

    def datapath(self, plan, *, plain=False):
        """Any datapath; with `plain` one whose points the kernels in registers have."""
        bits = width = self.whole(4, 17)
        block = None
        if not plain and self.sometimes(0.25):
            rule = self.one(*BlockRule)
            block = BlockScaling(
                rule=rule,
                early=rule is BlockRule.OR_BITS or self.sometimes(0.5),
                normalise=self.sometimes(0.5),
                rounding=self.one(*Rounding),
                counter_bits=self.one(None, 4),
            )
        stages = []
        for _ in plan.radices:
            shift = 0
            if block is None:
                width = max(width + self.whole(-1, 2), 4)
                shift = self.whole(0 if plain else -1, 3)
            stages.append(self.stage(plan.decimation is Decimation.DIF, width, shift))
        if plain:
            stages = [self.plain(stage) for stage in stages]
        return FftDatapath(stages=tuple(stages), input=QFormat(1, bits - 1), block=block)

    def plain(self, stage):
        """The stage without registers and rare points."""

        def bare(point, shift=None):
            if point is None:
                return None
            return Point(
                shift=point.shift if shift is None else shift,
                rounding=point.rounding,
                bits=point.bits,
                overflow=point.overflow,
                guard=point.guard,
            )

        product = stage.product
        if product is not None:
            each = 0 if stage.each is None else stage.each.shift
            product = bare(product, product.shift + each)
        return StageDatapath(
            sum=bare(stage.sum),
            product=product,
            twiddle=stage.twiddle,
            constants=bare(stage.constants),
            constant=stage.constant,
            trivial=stage.trivial,
            turn_first=stage.turn_first,
            sum_first=stage.sum_first,
        )
