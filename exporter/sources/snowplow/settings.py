"""Settings of a Snowplow source."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Discriminator, Tag

from exporter.config.secret import Secret
from exporter.config.section import Section, as_mapping
from exporter.config.source import SourceSettings, Sweep, SweepOrOff
from exporter.config.values import BaseUrl, Text


class ApiKeyPair(Section):
    """Sign-in by API key, version 3 (current)."""

    api_key_id: Text
    """ID of the API key."""
    api_key: Secret
    """The API key."""


class SnowplowApiKey(Section):
    """Sign-in by API key, version 2 (the key alone)."""

    api_key: Secret
    """The API key."""


class PasswordGrant(Section):
    """Sign-in by a user's password, for older consoles."""

    username: Text
    """The user."""
    password: Secret
    """The user's password."""
    client_id: Text
    """ID of the OAuth client."""
    client_secret: Secret
    """Secret of the OAuth client."""
    token_url: BaseUrl = "https://id.snowplowanalytics.com/oauth/token"  # noqa: S105  # an address
    """Address from which the token is requested."""
    audience: Text = "https://snowplowanalytics.com/api/"
    """Audience of the token."""


def _flow(auth: Any) -> str | None:  # noqa: ANN401  # as the config has it
    # Chosen by the beginnings of keys, so that an error for a misspelled key names the intended sign-in.
    keys = as_mapping(auth)
    if any(str(key).startswith(("user", "password", "client", "token", "audience")) for key in keys):
        return "<password>"
    return "<v3>" if any(str(key).startswith("api_key_i") for key in keys) else "<v2>"


Auth = Annotated[
    Annotated[ApiKeyPair, Tag("<v3>")]
    | Annotated[SnowplowApiKey, Tag("<v2>")]
    | Annotated[PasswordGrant, Tag("<password>")],
    Discriminator(_flow),
]


class SnowplowSettings(SourceSettings):
    """A Snowplow Console source."""

    api_path: ClassVar[str] = "/api/msc/v1"

    type: Literal["snowplow"]
    """The vendor."""
    base_url: BaseUrl = "https://console.snowplowanalytics.com"
    """Scheme, host, optional port and prefix of the console, without the API's own path."""
    organization_id: Text
    """ID of the organization, as the console's address shows it."""
    auth: Auth
    """How to sign in: an API key with its ID, only an API key, or a user's password."""
    sweep: SweepOrOff = Sweep()
    """Occasional polls of a longer window, for runs that the API shows late; off for none."""
