"""Style sheet, script and icon of the pages."""

import hashlib
from pathlib import Path
from typing import Any

from starlette.datastructures import QueryParams
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from exporter.pages.rendering import TEMPLATES

FOLDER = TEMPLATES / "assets"

FOREVER = "public, max-age=31536000, immutable"


class Assets(StaticFiles):
    """All assets. `versions`: digest of each asset's content, by name."""

    def __init__(self) -> None:
        super().__init__(directory=FOLDER)
        self.versions = {
            file.name: hashlib.blake2b(file.read_bytes(), digest_size=8).hexdigest() for file in FOLDER.iterdir()
        }

    def file_response(self, full_path: Any, stat_result: Any, scope: Scope, status_code: int = 200) -> Response:  # noqa: ANN401  # as in the base class
        """Return an asset. With its version in the link, browsers may cache it forever."""
        response = super().file_response(full_path, stat_result, scope, status_code)
        # A page of another version may still request its own file. That response must not be cached under this link.
        known = QueryParams(scope["query_string"]).get("v") == self.versions.get(Path(full_path).name, "")
        response.headers["Cache-Control"] = FOREVER if known else "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response
