"""Settings with type, range, default and help declared once; pydantic checks them, with one line for each error."""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic.fields import FieldInfo

from simpletuner_twinflow.errors import TwinFlowConfigError

MAX_SHOWN = 80  # characters of a value that an error shows


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of a user's key beside its type, range, default and help."""

    label: str  # in the web UI, after "TwinFlow: "
    allowed: str = ""  # in words, where the range is not enough
    note: str = ""  # explains the range, printed after it
    requires: tuple[str, ...] = ("twinflow_enabled",)
    documented: bool = False  # one of the feature's twelve documented keys; the others are ours


def option(default: Any, label: str, *, ge: Any = None, le: Any = None, lt: Any = None, **more: Any) -> Any:
    """A field of `Settings` that is a user's key; the docstring below it is its help.

    Args: default, label; ge, le, lt: its range; more: of `Option`.
    """
    extra: Any = {"option": Option(label=label, **more)}
    return Field(default, ge=ge, le=le, lt=lt, json_schema_extra=extra)


class RefusedSettingsError(TwinFlowConfigError):
    """Settings of a wrong type or out of range. Args: lines: the error of each, by name."""

    def __init__(self, lines: Mapping[str, str]) -> None:
        self.lines = dict(lines)
        super().__init__(*self.lines.values())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.lines,)


class Settings(BaseModel):
    """Base of all settings: immutable and of strict types, except that a float may be a whole number.

    Raises:
        RefusedSettingsError: A line for each setting of a wrong type or out of range.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="wrap")
    @classmethod
    def _refuse(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return validate(values)
        except ValidationError as error:
            if not isinstance(values, dict):
                raise
            wrong = dict.fromkeys(str(problem["loc"][0]) for problem in error.errors(include_input=False))
            raise RefusedSettingsError({name: cls.refusal(name, values[name]) for name in wrong}) from None

    @classmethod
    def refusal(cls, name: str, value: Any) -> str:
        """The error of a value that is not allowed."""
        if name not in cls.model_fields:
            return f"{name} is no setting; there are: {', '.join(cls.model_fields)}."
        return f"{name} is {shown(value)}; allowed: {cls.allowed(name)}."

    @classmethod
    def allowed(cls, name: str) -> str:
        """The allowed values in words."""
        field, info = cls.model_fields[name], cls.info(name)
        if info.allowed:
            return info.allowed
        if found := cls.choices(name):
            return " or ".join(f'"{choice}"' for choice in found)
        low, high, below = limits(field)
        if low is None or high is None:
            return "true or false"
        whole = "a whole number from " if kind_of(field) is int else ""
        return f"{whole}{low:.7g} to {'below ' if below else ''}{high:.7g}{info.note}"

    @classmethod
    def info(cls, name: str) -> Option:
        """What `option` declared of a setting."""
        extra: Any = cls.model_fields[name].json_schema_extra or {}
        return extra.get("option", Option(label=name))

    @classmethod
    def help(cls, name: str) -> str:
        """What a setting does: the docstring below its declaration."""
        return " ".join((cls.model_fields[name].description or "").split())

    @classmethod
    def choices(cls, name: str) -> tuple[str, ...]:
        """The values of a `Literal` setting; none for others."""
        annotation = cls.model_fields[name].annotation
        return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()

    def changed(self, **values: Any) -> Self:
        """A copy with other values, checked."""
        return type(self)(**{name: getattr(self, name) for name in type(self).model_fields} | values)


def kind_of(field: FieldInfo) -> type:
    """bool, int, float or str; str also for a list or object, which the host passes as JSON text."""
    annotation: Any = field.annotation
    if isinstance(annotation, types.UnionType):
        annotation = next(part for part in annotation.__args__ if part is not type(None))
    return annotation if annotation in (bool, int, float) else str


def limits(field: FieldInfo) -> tuple[float | None, float | None, bool]:
    """Lowest and highest value of a number, and whether the highest itself is excluded."""
    found = {name: getattr(item, name) for item in field.metadata for name in ("ge", "le", "lt") if hasattr(item, name)}
    return found.get("ge"), found.get("le", found.get("lt")), "lt" in found


def shown(value: Any) -> str:
    """A value for an error, as in a JSON config; a long one is cut."""
    try:
        return cut(json.dumps(value, default=str))
    except (ValueError, TypeError, RecursionError):
        if isinstance(value, int):  # of more digits than Python writes out
            return f"a whole number of {value.bit_length()} bits"
        return f"a {type(value).__name__} that is no JSON"


def cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
