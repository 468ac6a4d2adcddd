"""Settings of a Northflank source."""

from typing import ClassVar, Literal

from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import SourceSettings
from exporter.config.values import BaseUrl, Positive, Text


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
    """ID of the team, for a token of a whole organization."""
    auth: ApiToken
    """How to sign in."""
    requests_per_minute: Positive = 15.0
    """Request budget: the account's limit is 1000 per hour."""
