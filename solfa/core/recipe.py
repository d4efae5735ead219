"""Recipes: a small YAML file plus `key=value` words become one frozen dataclass; unknown keys are errors."""

import dataclasses
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from solfa.core.errors import UserError

T = TypeVar("T")


def build(cls: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from a mapping, nested dataclasses and tuples included.

    Raises: UserError for an unknown key, a value of the wrong type, or values that the dataclass itself refuses.
    """
    hints = typing.get_type_hints(cls)
    unknown = values.keys() - hints.keys()
    if unknown:
        raise UserError(f"unknown setting {sorted(unknown)[0]!r} in {where}; known: {', '.join(hints)}")
    required = [
        f.name
        for f in dataclasses.fields(typing.cast(Any, cls))
        if f.default is f.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in required if name not in values]:
        raise UserError(f"{where} does not say {missing[0]}: add {missing[0]}=...")
    settings = {key: _coerce(hints[key], value, f"{where}: {key}") for key, value in values.items()}
    try:
        return cls(**settings)
    except (ValueError, ArithmeticError) as e:  # of `__post_init__`
        raise UserError(f"{where}: {e}") from e


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(typing.cast(type, hint), value, where)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple and isinstance(value, (list, tuple)):
        return tuple(_coerce(args[0], v, where) for v in value)
    if origin is dict and isinstance(value, dict):
        return {k: _coerce(args[1], v, where) for k, v in value.items()}
    if origin in (tuple, dict):
        raise UserError(f"{where} should be a {'list' if origin is tuple else 'mapping'}, not {value!r}")
    if type(None) in args:  # Optional
        return None if value is None else _coerce(args[0], value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)
    if hint is float and isinstance(value, str):  # YAML reads 1e-3 as a string
        try:
            return float(value)
        except ValueError:
            pass
    if hint is str and value is False:  # YAML reads the word no as False, as in precision=no
        return "no"
    if isinstance(hint, type) and not (isinstance(value, hint) and (hint is bool or not isinstance(value, bool))):
        raise UserError(f"{where} should be {hint.__name__}, not {value!r}")
    return value


def load(cls: type[T], path: Path | str | None, overrides: list[str]) -> T:
    """The recipe in `path` (or the defaults) with `key=value` overrides; `a.b=1` reaches into nested settings."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, UnicodeDecodeError):
            raise UserError(f"recipe {path} cannot be read") from None
        except yaml.YAMLError:
            raise UserError(f"recipe {path} is not valid YAML") from None
        if not isinstance(values, dict):
            raise UserError(f"recipe {path} should be a mapping of settings")
    for word in overrides:
        key, equals, text = word.partition("=")
        if not equals:
            raise UserError(f"{word!r} is not key=value")
        place = values
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UserError(f"{word!r}: setting {parent!r} holds no settings of its own")
        try:
            place[last] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"{word!r}: the value is not valid YAML") from None
    return build(cls, values, str(path or "the command line"))
