"""Which formats does each layer of a model have, and how are they kept in a file?"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from fixedpoint.modes import Rounding, parse_rounding
from fixedpoint.qformat import QFormat, as_format
from parc_hw.errors import InputError, check_keys, nearest

__all__ = ["SCHEMA", "LayerFormats", "ModelDatapath", "load_datapath", "save_datapath"]

SCHEMA: Final = 1
WEIGHT_BITS: Final = (2, 32)
FRAC_BITS: Final = 64  # magnitude of a weight's fraction length


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFormats:
    """What a layer computes in.

    Parameters
    ----------
    output : QFormat
        Of its result.
    weight_bits : int or None
        Word length of its weights, 2 to 32; None for a layer without.
    weight_frac_bits : tuple of int, or None
        Of each output channel's weights; a single one stands for all, and equal ones become one.
        None: the most that hold the channel's largest weight.
    """

    output: QFormat
    weight_bits: int | None = None
    weight_frac_bits: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        bits, fractions = self.weight_bits, self.weight_frac_bits
        low, high = WEIGHT_BITS
        if bits is not None and (
            isinstance(bits, bool) or not isinstance(bits, int) or not low <= bits <= high
        ):
            raise InputError(f"weight_bits is {bits!r}: expected {low} to {high}.")
        if fractions is None:
            return
        if bits is None:
            raise InputError("weight_frac_bits without weight_bits: give the word length too.")
        for count in fractions:
            if isinstance(count, bool) or not isinstance(count, int) or abs(count) > FRAC_BITS:
                raise InputError(
                    f"weight_frac_bits holds {count!r}: expected integers from -{FRAC_BITS} to "
                    f"{FRAC_BITS}."
                )
        if len(set(fractions)) == 1:  # one way to write it, so that equal formats compare equal
            object.__setattr__(self, "weight_frac_bits", fractions[:1])


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDatapath:
    """The formats of a whole model, and the rounding of every requantisation.

    Parameters
    ----------
    model : str
        What they were made for.
    layers : mapping of str to LayerFormats
        One for every layer that has a format, in execution order.
    rounding : Rounding
    """

    model: str
    layers: Mapping[str, LayerFormats] = field(default_factory=dict)
    rounding: Rounding = Rounding.HALF_UP

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", MappingProxyType(dict(self.layers)))

    def __reduce__(self) -> Any:  # a mapping proxy does not pickle
        return _restore, (self.model, dict(self.layers), self.rounding)

    def __hash__(self) -> int:
        return hash((self.model, tuple(self.layers.items()), self.rounding))

    def replace(self, *, rounding: Rounding) -> ModelDatapath:
        """The same formats with another rounding."""
        return replace(self, rounding=rounding)

    def with_layer(
        self,
        name: str,
        *,
        output: QFormat | str | None = None,
        weight_bits: int | None = None,
        weight_frac_bits: tuple[int, ...] | None = None,
    ) -> ModelDatapath:
        """The same with one layer's formats changed.

        A new `weight_bits` without `weight_frac_bits` leaves those to the rule.

        Raises
        ------
        InputError
            No such layer (the nearest is named); weight formats for a layer without weights.
        """
        if name not in self.layers:
            raise InputError(
                f"the datapath of {self.model} has no layer {name!r}."
                f"{nearest(name, self.layers)} It has {len(self.layers)}, from "
                f"{next(iter(self.layers), '-')!r} to {next(reversed(list(self.layers)), '-')!r}."
            )
        old = self.layers[name]
        if old.weight_bits is None and (weight_bits is not None or weight_frac_bits is not None):
            raise InputError(f"{name} has no weights, and so no weight formats.")
        changed = LayerFormats(
            output=old.output if output is None else as_format(output, name=f"{name}.output"),
            weight_bits=old.weight_bits if weight_bits is None else weight_bits,
            weight_frac_bits=old.weight_frac_bits
            if weight_bits is None and weight_frac_bits is None
            else weight_frac_bits,
        )
        return replace(self, layers={**self.layers, name: changed})

    def with_layers(self, outputs: Mapping[str, QFormat | str]) -> ModelDatapath:
        """The same with other output formats for some layers: name -> format or its text."""
        changed = self
        for name, output in outputs.items():
            changed = changed.with_layer(name, output=output)
        return changed

    def as_toml(self) -> str:
        """The text of a datapath file."""
        lines = [
            f"schema = {SCHEMA}",
            f"model = {_quoted(self.model)}",
            f"rounding = {_quoted(self.rounding.value)}",
        ]
        for name, formats in self.layers.items():
            lines += ["", f"[layers.{_quoted(name)}]", f"output = {_quoted(str(formats.output))}"]
            if formats.weight_bits is not None:
                lines.append(f"weight_bits = {formats.weight_bits}")
            if formats.weight_frac_bits is not None:
                counts = formats.weight_frac_bits
                text = str(counts[0]) if len(counts) == 1 else str(list(counts))
                lines.append(f"weight_frac_bits = {text}")
        return "\n".join(lines) + "\n"


def _restore(model: str, layers: dict[str, LayerFormats], rounding: Rounding) -> ModelDatapath:
    return ModelDatapath(model=model, layers=layers, rounding=rounding)


def _quoted(text: str) -> str:
    """A TOML basic string."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return (
        '"'
        + "".join(f"\\u{ord(c):04x}" if ord(c) < 32 or ord(c) == 127 else c for c in escaped)
        + '"'
    )


def save_datapath(datapath: ModelDatapath, path: str | Path) -> None:
    """Write a datapath file (TOML); `load_datapath` gives an equal object."""
    Path(path).write_text(datapath.as_toml(), encoding="utf-8")


def load_datapath(path: str | Path) -> ModelDatapath:
    """Read a datapath file.

    Raises
    ------
    InputError
        No such file, not TOML, another schema, unknown or missing keys, or a value that is not
        acceptable; the message names file and layer.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}).") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a TOML file ({error}).") from None
    keys = {"schema", "model", "rounding", "layers"}
    check_keys(str(path), data, accepted=keys, required=keys)
    if data["schema"] != SCHEMA:
        raise InputError(
            f"{path}: schema is {data['schema']!r}; this version reads schema {SCHEMA}. Make the "
            f"file again."
        )
    if not isinstance(data["layers"], dict) or not isinstance(data["model"], str):
        raise InputError(f'{path}: model is a name and layers are tables, [layers."NAME"].')
    layers = {}
    for name, table in data["layers"].items():
        where = f"{path}: layers.{name}"
        if not isinstance(table, dict):
            raise InputError(f'{where}: expected a table, [layers."{name}"].')
        accepted = {"output", "weight_bits", "weight_frac_bits"}
        check_keys(where, table, accepted=accepted, required={"output"})
        counts = table.get("weight_frac_bits")
        if counts is not None:
            counts = tuple(counts) if isinstance(counts, list) else (counts,)
        try:
            layers[name] = LayerFormats(
                output=as_format(table["output"], name="output"),
                weight_bits=table.get("weight_bits"),
                weight_frac_bits=counts,
            )
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    try:
        rounding = parse_rounding(data["rounding"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return ModelDatapath(model=data["model"], layers=layers, rounding=rounding)
