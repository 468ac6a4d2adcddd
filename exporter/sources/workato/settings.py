"""Settings of a Workato source."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import model_validator

from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import SourceSettings
from exporter.config.values import Positive, PositiveDuration, Switch

# Requests per minute: 60 % of the limits of 1000 and 60 for jobs, because other clients share them.
BUDGETS = {"embedded": 600.0, "developer": 36.0}


class WorkatoAuth(Section):
    """Sign-in."""

    api_token: Secret
    """Token of an API client, whose role may list and view recipes and jobs."""


class WorkatoSettings(SourceSettings):
    """A Workato source: all customers of an Embedded partner, or one workspace."""

    api_path: ClassVar[str] = "/api"

    type: Literal["workato"]
    """The vendor."""
    mode: Literal["embedded", "developer"]
    """embedded: the recipes of all managed users; developer: those of the token's own workspace."""
    auth: WorkatoAuth
    """How to sign in."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "failed"
    """Completed runs whose steps are fetched, one request per run."""
    timeout: PositiveDuration = 45.0
    """Timeout of one request; Workato's own is 40s."""
    requests_per_minute: Positive = BUDGETS["developer"]
    """Request budget, by default 600 if embedded and 36 if developer. Sources with one token share the smallest."""

    @model_validator(mode="before")
    @classmethod
    def _budget_of_mode(cls, given: Any) -> Any:  # noqa: ANN401  # as the config has it
        if isinstance(given, Mapping) and "requests_per_minute" not in given and given.get("mode") == "embedded":
            return {**given, "requests_per_minute": BUDGETS["embedded"]}
        return given

    def link(self, *, run_id: str, job_id: str = "", job_name: str = "", project: str = "") -> str:
        """Return the link; `{job_id}` is the recipe's ID alone, as on the vendor's pages."""
        recipe = job_id.rpartition("/")[2]
        return super().link(run_id=run_id, job_id=recipe, job_name=job_name, project=project)
