"""`parc-hw sim`: what do a transform, a ParC or a network give in fixed point?"""

from __future__ import annotations

import typer

from parc_hw.cli import sim_fft, sim_model, sim_parc

__all__ = ["make"]


def make(epilog: str) -> typer.Typer:
    """Return the group of the three commands."""
    group = typer.Typer(
        help="Run the fixed-point simulator: values, peaks and overflows of every stage, errors "
        "beside theory, and whether any input can overflow.",
        epilog=epilog,
        no_args_is_help=False,
        invoke_without_command=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    for module, name, does in (
        (sim_fft, "fft", "A Fourier transform, by parameters or as a library or core computes it."),
        (sim_parc, "parc", "A ParC: direct, by transforms, or in two levels."),
        (sim_model, "model", "A whole network in integers, layer by layer."),
    ):
        group.command(name, short_help=does, epilog=epilog)(module.command)
    return group
