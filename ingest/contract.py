"""The Kafka contract, served: JSON Schemas, the AsyncAPI document, the data dictionary. Read once, at the start."""

from aiohttp import web

from infra.contract import ASYNCAPI, DICTIONARY, WITH_SCHEMA, schema_file
from ingest.problems import ProblemError


class Contract:
    """
    The files of the Kafka contract, byte for byte.

    But for one thing: the AsyncAPI document names the schemas by where they lie, which here is below /schemas/.
    """

    def __init__(self) -> None:
        schemas = [schema_file(topic) for topic in WITH_SCHEMA]
        self._files = {each.name: (each.read_bytes(), "application/schema+json") for each in schemas}
        self._files[DICTIONARY.name] = (DICTIONARY.read_bytes(), "text/markdown; charset=utf-8")
        self._asyncapi = ASYNCAPI.read_bytes().replace(b"$ref: ./", b"$ref: ./schemas/")

    async def schema(self, request: web.Request) -> web.Response:
        """GET /schemas/{name}."""
        found = self._files.get(request.match_info["name"])
        if found is None:
            raise ProblemError("not_found")
        body, media_type = found
        return web.Response(body=body, headers={"Content-Type": media_type})

    async def asyncapi(self, _request: web.Request) -> web.Response:
        """GET /asyncapi.yaml."""
        return web.Response(body=self._asyncapi, headers={"Content-Type": "application/yaml; charset=utf-8"})
