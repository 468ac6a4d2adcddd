"""The base class of all parts of the config: immutable, strict, and with all problems reported at once."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Self, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ModelWrapValidatorHandler,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, ErrorDetails, InitErrorDetails, PydanticCustomError

from exporter.config.problems import suggestion, validation_error
from exporter.config.secret import Secret, SecretError
from exporter.config.values import SWITCHES
from exporter.duration import format_duration

MESSAGES = {
    "missing": "is required",
    "string_type": "must be text; put it in quotes",
    "string_too_short": "must not be empty",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping of keys to values",
}
"""Messages that replace pydantic's own, by the type of its error. They say what to write in YAML."""


class Section(BaseModel):
    """A part of the config.

    An unknown key is a problem; its message suggests the nearest known key. A secret `x` can also be given as `x_file`:
    the path of a file, relative to the working directory. Subclasses override `conflicts` to compare their fields with
    each other. The docstring below a field is its description in the JSON schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
        hide_input_in_errors=True,
    )

    @classmethod
    def conflicts(cls, values: Mapping[str, Any]) -> Iterator[PydanticCustomError]:  # noqa: ARG003  # for subclasses
        """Yield an error per contradiction between fields. `values`: the fields that are valid by themselves."""
        yield from ()

    def secrets(self) -> Iterator[Secret]:
        """Yield all secrets in this section and below."""
        for value in vars(self).values():
            items = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            for item in items:
                if isinstance(item, Secret):
                    yield item
                elif isinstance(item, Section):
                    yield from item.secrets()

    @classmethod
    def valid_values(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of all valid fields, by name. Fields that are not given have their defaults."""
        values = {}
        for name, field in cls.model_fields.items():
            if name in given:
                kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
                with suppress(ValidationError):
                    values[name] = TypeAdapter(kind).validate_python(given[name])
            elif not field.is_required():
                values[name] = field.get_default(call_default_factory=True)
        return values

    @model_validator(mode="wrap")
    @classmethod
    def _collect(cls, data: object, handler: ModelWrapValidatorHandler[Self]) -> Self:
        if isinstance(data, cls):
            return handler(data)
        if not isinstance(data, Mapping):
            raise validation_error("must be a mapping of keys to values")
        given = dict(data)
        problems = list(cls._replace_secret_files(given))
        try:
            section = handler(given)
            values = vars(section)
        except ValidationError as error:
            problems += map(cls._translated, error.errors(include_url=False, include_input=False))
            values = cls.valid_values(given)
        problems += cls.conflicts(values)
        if problems:
            # pydantic adds the path of this section only to `loc`, so the keys move there.
            details = [
                InitErrorDetails(
                    type=validation_error(each.message()), loc=(each.context or {}).get("keys", ()), input=None
                )
                for each in problems
            ]
            raise ValidationError.from_exception_data(cls.__name__, details, hide_input=True) from None
        return section

    @classmethod
    def secret_names(cls) -> list[str]:
        """Return the names of the fields that are secrets."""
        return [
            name
            for name, field in cls.model_fields.items()
            if field.annotation is Secret or Secret in get_args(field.annotation)
        ]

    @classmethod
    def _replace_secret_files(cls, given: dict[str, Any]) -> Iterator[PydanticCustomError]:
        """Replace each `x_file` by a secret `x`. Yield the problems."""
        for name in cls.secret_names():
            if (key := f"{name}_file") not in given:
                continue
            path = given.pop(key)
            if name in given:
                yield validation_error(f"give either {name} or {key}, not both", key)
                continue
            secret = given[name] = Secret(file=Path(str(path)))
            if not isinstance(path, str) or not path:
                yield validation_error("must be the path of a file", key)
                continue
            try:
                secret.reveal()
            except SecretError as error:
                yield validation_error(str(error), key)

    @classmethod
    def _translated(cls, detail: ErrorDetails) -> PydanticCustomError:
        """Return an error of pydantic with our message. Errors of subsections already have it."""
        context, kind = detail.get("ctx", {}), detail["type"]
        keys = (*detail["loc"], *context.get("keys", ()))
        if kind == "extra_forbidden":
            message = cls._unknown_key_message(str(keys[-1]))
        elif kind == "value_error":  # raised by one of our validators
            message = str(context["error"])
        else:
            message = MESSAGES.get(kind) or re.sub(r"^(Input|String) should", "must", detail["msg"])
        if kind == "missing" and keys[-1] in cls.secret_names():
            message += f" (or {keys[-1]}_file)"
        return validation_error(message, *keys)

    @classmethod
    def _unknown_key_message(cls, key: str) -> str:
        known = [*cls.model_fields, *(f"{name}_file" for name in cls.secret_names())]
        return f"unknown key; {suggestion(key, known)}"

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        json_schema = handler.resolve_ref_schema(handler(schema))
        properties, required = json_schema.get("properties", {}), json_schema.get("required", [])
        for schema_of_key in properties.values():
            _adapt_to_yaml(schema_of_key)
        for name in cls.secret_names():
            file = f"{name}_file"
            properties[file] = {"type": "string", "minLength": 1, "description": f"Path of the file that holds {name}."}
            if name in required:
                required.remove(name)
                either = {"oneOf": [{"required": [name]}, {"required": [file]}]}
                json_schema.setdefault("allOf", []).append(either)
        return json_schema


def _adapt_to_yaml(schema: JsonSchemaValue) -> None:
    """Show default durations like `30s` in a schema, and accept the booleans that YAML reads for `on` and `off`."""
    if schema.get("type") != "number" and isinstance(schema.get("default"), float):
        schema["default"] = format_duration(schema["default"])
    if switches := [value for word, value in SWITCHES.items() if word in schema.get("enum", ())]:
        schema["enum"] += switches
        del schema["type"]  # booleans are not strings


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping or a section as a mapping, and an empty one for any other value."""
    if isinstance(value, Section):
        return vars(value)
    return value if isinstance(value, Mapping) else {}
