"""How do the commands hang together: global options, errors and exit codes?"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from parc_hw.cli import (
    accel,
    analyze,
    bench,
    compile_,
    doctor,
    export,
    models,
    profile,
    records,
    run_,
    sim,
    study,
    targets,
    train,
    tune,
    verify,
    versions,
)
from parc_hw.cli.session import DEFAULT_SEED, Session
from parc_hw.errors import InputError, ParcError, nearest

__all__ = ["app", "main", "run"]

INTERRUPTED = 130  # 128 + SIGINT, as shells report it
BUG = 1

_EPILOG = "Global options (-v -q --json --seed --jobs --config) may also stand after the command."

app = typer.Typer(
    name="parc-hw",
    help="Compile networks with position-aware circular convolution (ParC) to verified ARM "
    "libraries, run them and measure them.",
    epilog=_EPILOG,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    suggest_commands=False,  # `_usage_message` does it, for options as well
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

for _module, _name, _does in (
    (doctor, "doctor", "What is missing on this machine, and what mends it."),
    (targets, "targets", "What can be compiled for."),
    (models, "models", "The networks, their sizes and what they expect."),
    (analyze, "analyze", "What would be compiled, by which kernel, and why."),
    (compile_, "compile", "From a model to a verified bundle."),
    (export, "export", "Write a model as an ONNX file that others run."),
    (run_, "run", "Run a bundle on an input."),
    (verify, "verify", "Compare a bundle with its source model."),
    (bench, "bench", "Measure a bundle beside PyTorch and ONNX Runtime."),
    (profile, "profile", "Where a bundle spends its time or instructions, layer by layer."),
    (tune, "tune", "Measure choices for a model's kernels; keep the best."),
    (study, "study", "Which formats hold a quality: grids, searches, reports."),
    (train, "train", "Train a shipped small network again."),
):
    app.command(_name, short_help=_does, epilog=_EPILOG)(_module.command)
app.add_typer(
    sim.make(_EPILOG),
    name="sim",
    short_help="Simulate a transform, a ParC or a network in fixed point.",
)


app.add_typer(
    records.make(_EPILOG),
    name="records",
    short_help="Look at tuning records, merge and compare them.",
)
app.add_typer(
    accel.make(_EPILOG),
    name="accel",
    short_help="Check an accelerator's description, simulate programs on it.",
)


@app.callback()
def _global_options(
    context: typer.Context,
    verbose: Annotated[
        int,
        typer.Option(
            "-v", "--verbose", count=True, show_default=False, help="Say more; show tracebacks."
        ),
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("-q", "--quiet", help="Only results, warnings and errors.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The result alone, as JSON, on stdout.")
    ] = False,
    seed: Annotated[
        int, typer.Option(min=0, max=2**32 - 1, metavar="N", help="Seed of everything random.")
    ] = DEFAULT_SEED,
    jobs: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Threads this tool's own work may use.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Defaults: [COMMAND] tables of option = value."),
    ] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Versions of parc_hw and of what it builds on.", is_eager=True
        ),
    ] = False,
) -> None:
    if config is not None:
        context.default_map = _read_config(config, context, given=("seed", "jobs"))
        seed = _from_config(context, "seed", seed, DEFAULT_SEED)
        jobs = _from_config(context, "jobs", jobs, None)
    session = Session(verbosity=-1 if quiet else verbose, as_json=as_json, seed=seed, jobs=jobs)
    context.obj = session
    session.configure_logging()
    if jobs is not None:
        # The numeric libraries read these when they are imported, which is later.
        for variable in ("OMP_NUM_THREADS", "TVM_NUM_THREADS", "NUMBA_NUM_THREADS"):
            os.environ[variable] = str(jobs)
    if version:
        versions.show(session)
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


def _read_config(path: Path, context: typer.Context, given: Sequence[str]) -> dict[str, Any]:
    """Read defaults from TOML; every table must be a command and every key an option of it."""
    import tomllib

    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read --config {path}: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--config {path} is not valid TOML: {error}.") from None
    commands = _commands(context)
    result: dict[str, Any] = {}
    for name, value in data.items():
        if name in given:
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise InputError(f"--config {path}: {name} must be a whole number, not {value!r}.")
            result[name] = value
            continue
        if name not in commands or not isinstance(value, dict):
            accepted = [*given, *(f"[{command}]" for command in commands)]
            raise InputError(
                f"--config {path}: {name!r} is neither a global option nor a table of a command."
                f"{nearest(name, [*given, *commands])} Accepted: {', '.join(accepted)}."
            )
        result[name] = _defaults(f"--config {path}", name, commands[name], value)
    return result


def _defaults(where: str, name: str, command: Any, table: dict[str, Any]) -> dict[str, Any]:
    """Check the table of a command, or of a group with a table for each of its commands."""
    inner = getattr(command, "commands", None)
    if inner is not None:
        for key, value in table.items():
            if key not in inner or not isinstance(value, dict):
                raise InputError(
                    f"{where}: {name} has no command {key!r}.{nearest(key, inner)} "
                    f"Accepted: {', '.join(f'[{name}.{other}]' for other in inner)}."
                )
        return {
            key: _defaults(where, f"{name} {key}", inner[key], value)
            for key, value in table.items()
        }
    options = {
        option.removeprefix("--"): parameter.name
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }
    unknown = next((key for key in table if key.replace("_", "-") not in options), None)
    if unknown is not None:
        raise InputError(
            f"{where}: {name} has no option {unknown!r}.{nearest(unknown, options)} "
            f"Accepted: {', '.join(options)}."
        )
    return {options[key.replace("_", "-")]: item for key, item in table.items()}


def _from_config(context: typer.Context, name: str, given: Any, default: Any) -> Any:
    """The value typed, unless none was and the configuration file has one."""
    return (context.default_map or {}).get(name, default) if given == default else given


def _commands(context: Any) -> dict[str, Any]:
    return dict(context.find_root().command.commands)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return the process's exit code; errors are printed, not raised.

    Parameters
    ----------
    arguments : sequence of str, optional
        What follows the program's name; by default what this process was called with.

    Returns
    -------
    int
        0 ok, 1 a bug of ours, 2 usage or bad input, 3 unsupported, 4 verification missed,
        5 toolchain missing, 6 device or measurement, 7 the budget ended with a partial result,
        130 interrupted.
    """
    arguments = _globals_first(list(sys.argv[1:] if arguments is None else arguments))
    verbose = _wants_details(arguments)
    try:
        # Not standalone: click would print errors and choose exit codes in its own way.
        status = app(args=arguments, prog_name="parc-hw", standalone_mode=False)
    except ParcError as error:
        return _fail(str(error), error.exit_code, error if verbose else None)
    except typer.TyperException as error:
        return _fail(_usage_message(error), 2, error if verbose else None)
    except (KeyboardInterrupt, typer.Abort):
        status = INTERRUPTED
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  # so that the flush at exit is quiet
        return 0
    except Exception as error:
        kind = type(error).__name__
        return _fail(
            f"this is a bug in parc_hw: {kind}: {error} (run again with -v for the traceback)",
            BUG,
            error if verbose else None,
        )
    if status == INTERRUPTED:
        return _fail("interrupted.", INTERRUPTED, None)
    return status if isinstance(status, int) else 0


def run() -> None:
    """Be the program `parc-hw`."""
    if not sys.warnoptions and not _wants_details(sys.argv[1:]):
        # Deprecations inside torch and TVM are not the user's to mend.
        warnings.simplefilter("ignore")
    sys.exit(main())


def _wants_details(arguments: Sequence[str]) -> bool:
    """Whether `-v` was given in any of its forms."""
    return any(a == "--verbose" or (a[:2] == "-v" and not a.strip("-v")) for a in arguments)


def _fail(message: str, code: int, traceback_of: BaseException | None) -> int:
    from rich.console import Console

    if traceback_of is not None:
        import traceback

        traceback.print_exception(traceback_of)
    console = Console(stderr=True, highlight=False)
    console.print("error:", style="bold red", end=" ")
    console.print(message, markup=False, soft_wrap=True)
    return code


_FLAGS = {"-v", "-vv", "--verbose", "-q", "--quiet", "--json"}
_VALUED = {"--seed", "--jobs", "--config"}


def _globals_first(arguments: list[str]) -> list[str]:
    """Move global options that stand after the command to where the frame reads them.

    >>> _globals_first(["verify", "build/x", "--json", "--seed", "3"])
    ['--json', '--seed', '3', 'verify', 'build/x']
    """
    front: list[str] = []
    rest: list[str] = []
    remaining = iter(arguments)
    for argument in remaining:
        if argument == "--":
            rest.extend([argument, *remaining])
        elif argument in _FLAGS or (argument.partition("=")[0] in _VALUED and "=" in argument):
            front.append(argument)
        elif argument in _VALUED:
            front.append(argument)
            front.extend([value] if (value := next(remaining, None)) is not None else [])
        else:
            rest.append(argument)
    return front + rest


def _usage_message(error: typer.TyperException) -> str:
    """The parser's message with the nearest names and where to read on."""
    context: Any = getattr(error, "ctx", None)
    message = error.format_message().strip()
    option = getattr(error, "option_name", None)
    if context is None:
        return message
    if option and getattr(error, "possibilities", ()) is not None and "No such option" in message:
        known = [o for p in context.command.params for o in p.opts if o.startswith("--")]
        root = [o for p in context.find_root().command.params for o in p.opts]
        known += [o for o in root if o.startswith("--")] + ["--help"]
        message = f"No such option: {option}.{nearest(option, dict.fromkeys(known))}"
    elif message.startswith("No such command"):
        wrong = message.partition("'")[2].rpartition("'")[0]
        commands = getattr(context.command, "commands", None) or _commands(context)
        message = f"No such command: {wrong}.{nearest(wrong, commands)} "
        message += f"Accepted: {', '.join(commands)}."
    return f"{message} See `{context.command_path} --help`."
