"""Small tasks for the tests of runners."""

from __future__ import annotations

import random

import numpy as np

from parc_hw.device import Device, load_device
from parc_hw.operator import schedule_parc
from schedules.tuning.space import Choice
from schedules.tuning.task import Task


def parc_task(device: str | Device = "host", *, length: int = 8, channels: int = 32) -> Task:
    """A ParC along H; its space has some hundred points."""
    device = load_device(device) if isinstance(device, str) else device
    weight = np.ones((channels, length), np.float32)
    composite, scheduled = schedule_parc(
        weight, "H", (1, length, 6, channels), device=device, layout="NHWC"
    )
    return Task(kernel=scheduled.rule, composite=composite, device=device)


def other_choices(task: Task, count: int) -> list[Choice]:
    """So many points of a task's space but the default one, always the same."""
    points = [choice for choice in task.space.points() if choice != task.default]
    return random.Random(0).sample(points, count)
