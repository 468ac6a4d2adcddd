"""Problems of a config, each with the path of its key."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticCustomError

Model = TypeVar("Model", bound=BaseModel)


class ConfigProblem(NamedTuple):
    """One problem or one warning.

    Attributes:
        path: Path of the key, such as `sources[0].poll_interval`; "" for the whole file.
        message: Description of the problem. It never contains a value, because a value can be a secret.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """The config is not valid. The error has all problems."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def path_of(keys: Iterable[str | int]) -> str:
    """Return the path of keys and indexes: `("sources", 0, "name")` is `sources[0].name`.

    Names in angle brackets are omitted: pydantic adds them for the members of a union.
    """
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif not (key.startswith("<") and key.endswith(">")):
            path += f".{key}" if path else key
    return path


def wrong(message: str, *below: str | int) -> PydanticCustomError:
    """Return the error for a value that a validator refuses. `below`: keys under the value that cause it."""
    return PydanticCustomError("problem", "{message}", {"message": message, "below": below})


def validated(model: type[Model], data: object, problems: list[ConfigProblem]) -> Model | None:
    """Return the model of a document. If it is invalid, return None, and add the problems of further keys."""
    if isinstance(data, dict):  # a section whose lines are all commented out is None
        data = {key: value for key, value in data.items() if value is not None or key not in model.model_fields}
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = {problem.path for problem in problems}
        details = error.errors(include_url=False, include_input=False)
        found = (ConfigProblem(path_of(detail["loc"]), detail["msg"]) for detail in details)
        problems += [problem for problem in found if problem.path not in known]
    return None
