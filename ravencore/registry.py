"""Schema ids from a Confluent-compatible schema registry, where one is configured.

Subjects are `raven.<record>`, one per record and not per topic: one Bar schema serves all bar topics.
API: https://docs.confluent.io/platform/current/schema-registry/develop/api.html
"""

import json
import urllib.error
import urllib.request
from typing import Any

from ravencore.codec import Schema
from ravencore.errors import Unavailable, Unreadable
from ravencore.hiding import without_password

TIMEOUT_S = 5.0
NOT_FOUND = 404


class SchemaRegistry:
    """A schema registry's ids; each is asked for once."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._shown = without_password(url)

    def id_of(self, record: str, schema: Schema) -> int:
        """Id of a schema under subject `raven.<record>`, registered where it is new; raises Unavailable."""
        answer = self._call("POST", f"/subjects/raven.{record}/versions", {"schema": json.dumps(schema)})
        return int(answer["id"])

    def schema_of(self, schema_id: int) -> Schema:
        """Schema of an id; raises Unreadable when the registry has none, Unavailable when it is away."""
        answer = self._call("GET", f"/schemas/ids/{schema_id}")
        schema: Schema = json.loads(answer["schema"])
        return schema

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        data = json.dumps(body).encode() if body is not None else None
        headers = {"Content-Type": "application/vnd.schemaregistry.v1+json"}
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            if error.code == NOT_FOUND:
                raise Unreadable(f"the schema registry at {self._shown} has nothing at {path}") from None
            raise Unavailable(
                f"the schema registry at {self._shown} refused {path}: {error.code} {error.reason}"
            ) from None
        except OSError as error:
            raise Unavailable(f"the schema registry at {self._shown} does not answer: {error}") from None
