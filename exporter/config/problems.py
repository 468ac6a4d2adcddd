"""What is wrong with a config: each fault with the path of the key that has it."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pydantic import ValidationError
from pydantic_core import PydanticCustomError


class ConfigProblem(NamedTuple):
    """One fault, or one warning.

    Attributes:
        path: Where, such as `sources[0].poll_interval`; "" for the file as a whole.
        message: What is wrong, in words. It never repeats a value: a value can be a secret.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(Exception):
    """The config cannot be used. `faults` holds every fault that was found."""

    def __init__(self, problems: Sequence[ConfigProblem]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = list(problems)


def path_of(keys: Iterable[str | int]) -> str:
    """Keys and indices as a path: `("sources", 0, "name")` is `sources[0].name`.

    Names in angle brackets are left out: with them the unions of the models tell their members apart.
    """
    path = ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        elif not (key.startswith("<") and key.endswith(">")):
            path += f".{key}" if path else key
    return path


def wrong(message: str, *below: str | int) -> PydanticCustomError:
    """The error that a validator raises for a value; `below` are the keys under it that are meant."""
    return PydanticCustomError("problem", "{message}", {"message": message, "below": below})


def problems_of(error: ValidationError) -> list[ConfigProblem]:
    """The faults that a `Section` found."""
    return [
        ConfigProblem(path_of(detail["loc"]), detail["msg"])
        for detail in error.errors(include_url=False, include_input=False)
    ]
