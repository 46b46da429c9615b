"""The OpenAPI document: fields that were published stay, and the API keeps to it whatever it is asked."""

from __future__ import annotations

import json
import os
import warnings
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from spendgate.api.mount import MOUNTED_AT
from tests.api.callers import NOW, Place

PUBLISHED = Path(__file__).parent / "published_fields.json"
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


def document(place: Place) -> dict[str, Any]:
    told: dict[str, Any] = place.client.get("/v1/openapi.json").json
    return told


def fields_of(told: dict[str, Any]) -> dict[str, list[str]]:
    """What programs depend on: parameters of each operation, and properties of each schema."""
    found = {}
    for path, item in told["paths"].items():
        for method, operation in item.items():
            if method != "parameters":
                asked = [*item.get("parameters", []), *operation.get("parameters", [])]
                found[f"{method.upper()} {path}"] = sorted(
                    [
                        *(f"{one['in']} {one['name']}" for one in asked),
                        *(f"answers {code}" for code in operation["responses"]),
                    ]
                )
    for name, schema in told["components"]["schemas"].items():
        found[name] = sorted(schema.get("properties", {}))
    return found


def test_a_field_that_was_published_stays(place: Place) -> None:
    published = json.loads(PUBLISHED.read_text())
    there = fields_of(document(place))
    gone = {name: sorted(set(names) - set(there.get(name, []))) for name, names in published.items()}
    assert not {name: names for name, names in gone.items() if names or name not in there}, "programs depend on these"
    added = [name for name, names in there.items() if set(names) - set(published.get(name, []))]
    assert not added, "publish them: PYTHONPATH=include:. python -m tests.api.test_description"


def test_every_operation_says_what_it_is_and_how_it_is_refused(place: Place) -> None:
    told = document(place)
    assert told["openapi"] == "3.1.0"
    for path, item in told["paths"].items():
        for method, operation in item.items():
            if method != "parameters" and operation.get("security") != []:
                assert operation["summary"], f"{method} {path}"
                assert {"401", "429", "503"} <= set(operation["responses"]), f"{method} {path}"


def test_the_page_for_people_needs_nothing_from_elsewhere(place: Place) -> None:
    page = place.client.get("/v1/docs").text
    assert "GET /budget/v1/can-serve" in page.replace("<code>", "")
    assert "Only true means yes." in page
    assert "string or null" in page
    assert "<script" not in page
    assert "http" not in page.replace("http(s)", "")


@pytest.mark.untraced
@pytest.mark.parametrize("with_token", [True, False], ids=["with a token", "without"])
def test_whatever_is_asked_no_answer_is_undocumented_or_the_servers_fault(place: Place, with_token: bool) -> None:
    """Over all operations but the stream, which doesn't end; SPENDGATE_TEST_API_CASES of each kind for each."""
    cases = int(os.environ.get("SPENDGATE_TEST_API_CASES", "36"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mounted = DispatcherMiddleware(lambda environ, start: [], {MOUNTED_AT: place.app})
        described = schemathesis.openapi.from_wsgi(f"{MOUNTED_AT}/v1/openapi.json", mounted)
    place.clock.now = NOW - timedelta(minutes=90)  # all flags are fresh, so that it is ready
    asked = 0
    for result in described.get_all_operations():
        operation = result.ok()
        if operation.path.endswith("/stream"):
            continue
        headers = {"Accept-Encoding": "identity"}
        if with_token:  # a new one for each: one of the operations ends it
            headers["Authorization"] = f"Bearer {place.log_in()['access_token']}"
        strategy = operation.as_strategy(generation_mode=GenerationMode.POSITIVE)
        asked += ask_much(operation, strategy, headers, cases)
        asked += ask_much(operation, operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), headers, cases)
    assert asked >= cases * 28


def ask_much(operation: Any, strategy: Any, headers: dict[str, str], cases: int) -> int:
    asked = [0]

    @given(case=strategy)
    @settings(
        max_examples=cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        asked[0] += 1
        case.call_and_validate(headers=headers, checks=CHECKS)

    with suppress(Unsatisfiable):  # nothing can be asked wrongly where nothing is asked
        run()
    return asked[0]


if __name__ == "__main__":
    from spendgate.api.app import create_app
    from spendgate.settings import Settings
    from spendgate.warehouse.engine import Warehouse

    app = create_app(Settings(api_signing_key="x" * 40), warehouse=Warehouse("postgresql+psycopg://a:b@127.0.0.1:1/x"))
    told = fields_of(app.test_client().get("/v1/openapi.json").json)
    PUBLISHED.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n")
