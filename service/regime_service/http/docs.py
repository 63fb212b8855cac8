"""/docs: the document of the API as one plain page.

Made here and not by a script from elsewhere: a page that loads code from another site runs that code on the address
from which bots are commanded. It needs no script at all, so its policy allows none, works without the internet, and
reads like the contract it shows.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from typing import Any

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222;background:#fff}
code,pre{font:14px/1.4 ui-monospace,monospace}h2{margin-top:2.5rem;border-bottom:1px solid #ccc}
h3{margin-bottom:.2rem}table{border-collapse:collapse;margin:.5rem 0}td,th{text-align:left;vertical-align:top;
padding:.15rem .8rem .15rem 0;border-bottom:1px solid #eee}.m{color:#666}a{color:#05a}
@media (prefers-color-scheme:dark){body{color:#ddd;background:#181818}td,th{border-color:#333}
a{color:#8bf}.m{color:#999}}
"""
_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
POLICY = f"default-src 'none'; style-src 'sha256-{_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content-Security-Policy of the page: its own style, and nothing else."""


def page(document: dict[str, Any]) -> str:
    """Return the HTML page of an OpenAPI document."""
    info = document["info"]
    title = f"{info['title']} {info['version']}"
    parts = [
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style><h1>{escape(title)}</h1>'
        f"<p>{escape(info.get('summary', ''))}</p>"
        '<p>For programs: <a href="/openapi.json">/openapi.json</a>. Where there are keys, send '
        "<code>Authorization: Bearer &lt;key&gt;</code>; each call says which scope its key needs.</p><h2>Calls</h2>"
    ]
    for path, item in document["paths"].items():
        for method, operation in item.items():
            parts += _operation(method.upper(), path, operation)
    parts.append("<h2>Schemas</h2>")
    for name, schema in sorted(document["components"]["schemas"].items()):
        parts += _schema(name, schema)
    return "\n".join([*parts, "</html>\n"])


def _operation(method: str, path: str, operation: dict[str, Any]) -> Iterator[str]:
    scopes = [scope for way in operation.get("security", ()) for scope in way.get("key", ())]
    scope = f' <span class="m">scope {escape(scopes[0])}</span>' if scopes else ""
    yield f"<h3><code>{method} {escape(path)}</code>{scope}</h3><p><b>{escape(operation['summary'])}.</b> "
    yield f"{escape(operation.get('description', ''))}</p><table>"
    for param in operation.get("parameters", ()):
        needed = "required" if param["required"] else "optional"
        said = f"{_type(param['schema'])} in the {param['in']}, {needed}"
        yield f"<tr><td><code>{escape(param['name'])}</code><td>{said}<td>{escape(param.get('description', ''))}"
    for media, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"<tr><td>body<td><code>{escape(media)}</code><td>{_type(content['schema'])}"
    for status, answer in operation["responses"].items():
        kinds = ", ".join(_type(content["schema"]) for content in answer.get("content", {}).values())
        yield f"<tr><td>{escape(status)}<td>{kinds}<td>{escape(answer['description'])}"
    yield "</table>"


def _schema(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f'<h3 id="{escape(name)}"><code>{escape(name)}</code></h3><p>{escape(schema.get("description", ""))}</p>'
    if "properties" not in schema:
        yield f"<p>{_type(schema)}</p>"
        return
    yield "<table>"
    for field, kind in schema["properties"].items():
        needed = "required" if field in schema.get("required", ()) else ""
        said = escape(kind.get("description", ""))
        yield f"<tr><td><code>{escape(field)}</code><td>{_type(kind)}<td>{needed}<td>{said}"
    yield "</table>"


_BOUNDS = {
    "minimum": "&ge;", "maximum": "&le;", "exclusiveMinimum": "&gt;", "minLength": "length &ge;",
    "maxLength": "length &le;", "maxProperties": "at most",
}  # fmt: skip


def _type(schema: dict[str, Any]) -> str:
    """A schema in a few words of HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for choice in ("anyOf", "oneOf"):
        if choice in schema:
            return " or ".join(map(_type, schema[choice]))
    if "enum" in schema:
        return " | ".join(f"<code>{escape(str(word))}</code>" for word in schema["enum"])
    word = escape(str(schema.get("type", "anything")))
    if "items" in schema:
        word = f"list of {_type(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict) and "properties" not in schema:
        word = f"names to {_type(schema['additionalProperties'])}"
    bounds = [f"{sign} {schema[key]}" for key, sign in _BOUNDS.items() if key in schema]
    bounds += [f"default <code>{escape(str(schema['default']))}</code>"] if schema.get("default") is not None else []
    return f"{word} ({', '.join(bounds)})" if bounds else word


__all__ = ["POLICY", "page"]
