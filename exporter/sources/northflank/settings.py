"""What the configuration says of a Northflank source."""

from typing import Annotated, ClassVar, Literal

from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import SourceSettings
from exporter.config.values import BaseUrl, Positive, Switch, Text


class ApiToken(Section):
    """Sign-in by an API token."""

    api_token: Secret
    """API token of a role that may read projects and jobs."""


class NorthflankSettings(SourceSettings):
    """A Northflank source."""

    api_path: ClassVar[str] = "/v1"

    type: Literal["northflank"]
    """The vendor."""
    base_url: BaseUrl = "https://api.northflank.com"
    """Scheme, host, optional port and prefix of the API, without the API's own path."""
    team_id: Text | None = None
    """Id of the team, for a token that is good for a whole organisation."""
    auth: ApiToken
    """How to sign in."""
    steps: Annotated[Literal["all", "failed", "off"], Switch] = "off"
    """Of no effect: runs have no steps."""
    requests_per_minute: Positive = 15.0
    """Budget of requests: the account's limit is 1000 an hour."""
