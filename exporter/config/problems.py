"""Problems of a config, each with the path of its key."""

from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

Model = TypeVar("Model", bound=BaseModel)


class ConfigProblem(NamedTuple):
    """One problem or warning. `path`: the key's path, such as `sources[0].poll_interval`; "" for the whole file."""

    # The message never contains a value, because a value can be a secret.

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """The config is not valid. `problems` has all reasons."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def path_of(keys: Iterable[str | int]) -> str:
    """Return keys and indexes as one text: `("sources", 0, "name")` is `sources[0].name`."""
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif not (key.startswith("<") and key.endswith(">")):  # pydantic adds the tag of a union's member
            path += f".{key}" if path else key
    return path


def suggestion(name: str, known: Collection[str], otherwise: str = "") -> str:
    """Return a hint with the most similar known name. If none is similar, return `otherwise` or all known names."""
    import difflib  # noqa: PLC0415  # most configs have no problem

    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else otherwise or f"known are {', '.join(sorted(known))}"


def validation_error(message: str, *keys: str | int) -> PydanticCustomError:
    """Return the error that a validator raises. `keys`: path of the invalid part within the value."""
    return PydanticCustomError("problem", "{message}", {"message": message, "keys": keys})


def validated(model: type[Model], data: object, problems: list[ConfigProblem]) -> Model | None:
    """Return the model of a document. If it is invalid, return None and add problems of keys without one so far."""
    if isinstance(data, dict):  # YAML parses a section as None if all its lines are comments
        data = {key: value for key, value in data.items() if value is not None or key not in model.model_fields}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        details = error.errors(include_url=False, include_input=False)
        found = (ConfigProblem(path_of(detail["loc"]), detail["msg"]) for detail in details)
        problems += [problem for problem in found if problem.path not in known]
    return None
