"""Settings of a Strait source."""

from typing import ClassVar, Literal

from exporter.config.secret import Secret
from exporter.config.section import Section
from exporter.config.source import SourceSettings, Sweep, SweepOrOff
from exporter.config.values import BaseUrl, Positive


class StraitApiKey(Section):
    """Sign-in by API key; the key also names the project."""

    api_key: Secret
    """The API key, with the scopes jobs:read, runs:read and workflows:read."""


class StraitSettings(SourceSettings):
    """A Strait source: one project."""

    api_path: ClassVar[str] = "/v1"

    type: Literal["strait"]
    """The vendor."""
    base_url: BaseUrl = "https://api.strait.dev"
    """Scheme, host, optional port and prefix of the server, without the API's own path."""
    auth: StraitApiKey
    """How to sign in."""
    sweep: SweepOrOff = Sweep()
    """Occasional polls of a longer window, for runs that the API shows late; off for none."""
    requests_per_minute: Positive = 50.0
    """Request budget. Sources with the same credential share the smallest."""
