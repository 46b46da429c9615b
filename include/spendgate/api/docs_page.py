"""The description for people: one page without scripts, made of the OpenAPI document, that works offline."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from markupsafe import Markup

# In Markup from the start: it goes into the page as it stands.
STYLE = Markup("""
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}
code,pre{font:14px/1.5 ui-monospace,monospace}pre{background:#f2f4f7;padding:.75rem;overflow-x:auto}
h2{margin-top:2.5rem;border-bottom:1px solid #d5dae1}h3 code{font-size:16px}
table{border-collapse:collapse;width:100%}td,th{text-align:left;vertical-align:top;padding:.25rem .75rem .25rem 0}
tr{border-bottom:1px solid #eceff3}
""")
# The one style that the page's Content-Security-Policy lets in.
STYLE_HASH = "sha256-" + base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src '{STYLE_HASH}'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"


def render_page(document: dict[str, Any]) -> str:
    """The page of an OpenAPI document."""
    parts = [
        Markup("<!doctype html><html lang=en><meta charset=utf-8><title>{}</title><style>").format(
            document["info"]["title"]
        ),
        STYLE,
        Markup("</style><h1>{} {}</h1><p>{}</p>").format(
            document["info"]["title"], document["info"]["version"], document["info"].get("description", "")
        ),
        Markup("<p>For programs: <a href=openapi.json>openapi.json</a></p>"),
    ]
    prefix = document.get("servers", [{"url": ""}])[0]["url"]
    for tag in document.get("tags", []):
        parts.append(Markup("<h2>{}</h2><p>{}</p>").format(tag["name"], tag.get("description", "")))
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method != "parameters" and tag["name"] in operation.get("tags", []):
                    parts.append(_operation(document, prefix + path, method, item, operation))
    return Markup("").join(parts)


def _operation(document: dict[str, Any], path: str, method: str, item: dict[str, Any], told: dict[str, Any]) -> Markup:
    head = Markup("<h3><code>{} {}</code></h3><p>{} {}</p>").format(
        method.upper(), path, told.get("summary", ""), told.get("description", "")
    )
    asked = [
        (p["name"], p["in"], p.get("description", ""))
        for p in (*item.get("parameters", []), *told.get("parameters", []))
    ]
    answers = [(status, _description(document, answer), "") for status, answer in told["responses"].items()]
    return (
        head + _table("asked", asked) + _fields(document, told["responses"].get("200", {})) + _table("answers", answers)
    )


def _table(head: str, rows: list[tuple[Any, str, str]]) -> Markup:
    if not rows:
        return Markup("")
    lines = (Markup("<tr><td><code>{}</code><td>{}<td>{}").format(*row) for row in rows)
    return Markup("<table><tr><th>{}<th><th>").format(head) + Markup("").join(lines) + Markup("</table>")


def _description(document: dict[str, Any], answer: dict[str, Any]) -> str:
    return str(_resolved(document, answer).get("description", ""))


def _fields(document: dict[str, Any], answer: dict[str, Any]) -> Markup:
    content = _resolved(document, answer).get("content", {}).get("application/json", {})
    schema = _resolved(document, content.get("schema", {}))
    items = schema.get("properties", {}).get("items") or schema.get("properties", {}).get("flags")
    if items is not None:
        schema = _resolved(document, items["items"])
    rows = [
        (name, _kind(told.get("type", "")), told.get("description", ""))
        for name, told in schema.get("properties", {}).items()
    ]
    return _table("fields", rows)


def _kind(told: str | list[str]) -> str:
    """A field's type in words: one, or the several that it may have."""
    return told if isinstance(told, str) else " or ".join(told)


def _resolved(document: dict[str, Any], thing: dict[str, Any]) -> dict[str, Any]:
    reference = thing.get("$ref")
    if reference is None:
        return thing
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return dict(found)
