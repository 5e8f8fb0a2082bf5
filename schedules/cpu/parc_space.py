"""What may be chosen about a kernel of ParC, besides what the planner and `Traffic` say?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from parc_hw import planner
from parc_hw.device import Device, Isa
from parc_hw.plan import SplitPlan
from schedules.cpu.channels import ChannelBlocks
from schedules.cpu.split import products_forms
from schedules.cpu.traffic import SWEEP_BYTES, Traffic
from schedules.tuning.space import Choice, Dimension, Implication, Space

__all__ = ["parc_space", "tuned_plan"]


_NARROWEST = 4  # elements of a vector: on no device is a narrower one worth a trial


def parc_space(
    kernel: str,
    device: Device,
    *,
    plans: Mapping[str, planner.Choice],
    fixed: bool,
    neighbours: Sequence[int],
    moved: Sequence[int] | None = None,
    default: Traffic,
    may_stream: bool,
    spaced: bool = False,
    grains: Sequence[int] = (),
    grain: int = 1,
    more: Sequence[Dimension] = (),
    more_default: Mapping[str, str] | None = None,
) -> Space:
    """The space of a depthwise ParC in NHWC or NCHW.

    Parameters
    ----------
    kernel : str
        The rule.
    device : Device
    plans : mapping of str to planner.Choice
        For each correlation the name of its dimension and the planner's choice.
    fixed : bool
        Whether the user asked for the plans.
    neighbours : sequence of int
        How many values lie side by side, of each correlation: channels in NHWC, columns or rows in
        NCHW. Vectors cover them.
    moved : sequence of int or None
        Those of the correlations that `Traffic` is for; None: all.
    default : Traffic
        How the rule moves its map by itself.
    may_stream : bool
        Whether results are whole cache lines when vectors are as wide as the device's.
    spaced : bool
        Whether other vectors lie between the points of one, as in NHWC.
    grains : sequence of int
        How many blocks of full vectors a task may take, where that can be chosen, and `grain`, what the
        rule takes by itself.
    more, more_default
        Further dimensions of the rule, and what it takes of them by itself.
    """
    dimensions: list[Dimension] = []
    implications: list[Implication] = []
    values: dict[str, int | bool | str] = {}
    direct: list[Implication] = []

    forms: dict[str, None] = {}
    for name, found in plans.items():
        options = [found.plan] if fixed else [plan for plan, _ in found.ranked]
        texts = tuple(str(plan) for plan in sorted(options, key=lambda plan: plan.n1))
        dimensions.append(Dimension(name, texts, "transform x product"))
        values[name] = str(found.plan)
        for plan in options:
            forms.update(dict.fromkeys(products_forms(plan, device)))
    dimensions.append(Dimension("products", tuple(forms), "outputs at once in a product"))
    values["products"] = "auto"
    for name, found in plans.items():
        for plan in [found.plan] if fixed else [plan for plan, _ in found.ranked]:
            accepted = products_forms(plan, device)
            if len(accepted) < len(forms):
                implications.append(Implication(name, (str(plan),), "products", accepted))

    full = device.lanes()
    widths = [full]
    while (half := widths[-1] // 2) >= _NARROWEST and any(
        ChannelBlocks.cover(n, half).lanes < ChannelBlocks.cover(n, widths[-1]).lanes
        for n in neighbours
    ):
        widths.append(half)
    length = max(found.plan.length for found in plans.values())
    moved = neighbours if moved is None else moved
    together = {
        width: tuple(
            n
            for n in range(1, max(moved, default=1) + 1)
            if all(ChannelBlocks.cover(count, width).count % n == 0 for count in moved)
            and (n == 1 or n == default.vectors or 4 * length * width * n <= SWEEP_BYTES)
            and (n == 1 or moved)
        )
        for width in widths
    }
    dimensions.append(Dimension("lanes", tuple(widths), "elements of a vector, at most"))
    values["lanes"] = full
    counts = tuple(sorted({n for each in together.values() for n in each}))
    dimensions.append(Dimension("vectors", counts, "vectors through the stages together"))
    values["vectors"] = default.vectors
    implications += [
        Implication("lanes", (width,), "vectors", each)
        for width, each in together.items()
        if len(each) < len(counts)
    ]
    fetches = (False, True) if moved else (False,)
    dimensions.append(Dimension("fetch", fetches, "fetch the next task's points"))
    values["fetch"] = default.fetches
    if spaced:
        dimensions.append(Dimension("near", (False, True), "fetch the next vector's points"))
        values["near"] = default.near
    streams = may_stream and device.isa is Isa.X86_64 and 4 * full == device.line_bytes
    streams = streams and bool(moved)
    if streams:
        dimensions.append(Dimension("stream", (False, True), "store past the caches"))
        values["stream"] = default.streams
        implications.append(Implication("stream", (True,), "lanes", (full,)))
    if len(plans) == 1:
        # The direct form has no stage that fetches or streams.
        (name,) = plans
        whole = (str(SplitPlan(n1=1, n2=length)),)
        direct.append(Implication(name, whole, "fetch", (False,)))
        if spaced:
            direct.append(Implication(name, whole, "near", (False,)))
        if streams:
            direct.append(Implication(name, whole, "stream", (False,)))
        if values[name] == whole[0]:
            values["fetch"] = False
            if spaced:
                values["near"] = False
            if streams:
                values["stream"] = False
    if grains:
        dimensions.append(Dimension("grain", tuple(grains), "blocks of channels of a task"))
        values["grain"] = grain
        implications.append(
            Implication("grain", tuple(g for g in grains if g > 1), "lanes", (full,))
        )
        for g in grains:
            implications.append(
                Implication("grain", (g,), "vectors", tuple(n for n in counts if g % n == 0))
            )
        values["vectors"] = max(
            n for n in together[full] if grain % n == 0 and n <= default.vectors
        )
    return Space(
        kernel=kernel,
        dimensions=(*dimensions, *more),
        default=Choice.of({**values, **(more_default or {})}),
        implications=(*implications, *direct),
    )


def tuned_plan(choice: Choice, name: str, found: planner.Choice) -> planner.Choice:
    """The planner's answer with the plan that a choice has for it.

    >>> from parc_hw.device import load_device
    >>> from parc_hw.spec import Axis, ParcSpec
    >>> spec = ParcSpec(axis=Axis.H, batch=1, channels=96, height=14, width=14)
    >>> found = planner.plan_parc(spec, load_device("cortex-a53"))
    >>> tuned_plan(Choice.of({"plan": "1x14"}), "plan", found).reason[:11]
    '1x14: tuned'
    """
    plan = SplitPlan.parse(choice[name], length=found.plan.length)
    if plan == found.plan:
        return found
    costs = dict(found.ranked)
    times = costs[plan] / costs[found.plan]
    reason = f"{plan}: tuned; estimated at {times:.2f} times the work of {found.plan}"
    return planner.Choice(plan=plan, reason=reason, ranked=found.ranked)
