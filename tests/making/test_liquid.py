from __future__ import annotations

import pytest

from wasm_gateway.errors import TemplateError
from wasm_gateway.making.liquid import FILTERS, render

VALUES = {"name": "My HTTPServer2", "path": "/a", "router": "itty", "empty": ""}


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("kebab_case", "My HTTPServer2", "my-http-server2"),
        ("kebab_case", "already-kebab", "already-kebab"),
        ("kebab_case", "snake_case.and dots", "snake-case-and-dots"),
        ("snake_case", "my-fetchURL", "my_fetch_url"),
        ("pascal_case", "my-fetch_url", "MyFetchUrl"),
        ("dotted_pascal_case", "my-team.hello-world", "MyTeam.HelloWorld"),
        ("http_wildcard", "/static", "/static/..."),
        ("http_wildcard", "/static/", "/static/..."),
        ("http_wildcard", "/static/...", "/static/..."),
        ("http_wildcard", "/", "/..."),
        ("capitalize", "ab Cd", "Ab Cd"),
    ],
)
def test_filters(name: str, given: str, expected: str) -> None:
    assert FILTERS[name](given) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("no { braces } 100 %", "no { braces } 100 %"),
        ("{{name}}|{{ name | kebab_case }}", "My HTTPServer2|my-http-server2"),
        ("{{name|snake_case|upcase}}", "MY_HTTP_SERVER2"),
        ("{{ 'a' | append: \"b\" | prepend: 'c' }}", "cab"),
        ("{{ path | replace: '/', ':' }}{{ empty | default: 3 }}", ":a3"),
        ("a {{- path -}} b", "a/ab"),
        ("{% if empty %}1{% elsif router == 'itty' %}2{% else %}3{% endif %}", "2"),
        ("{% if router != 'itty' or path contains 'a' and empty == '' %}y{% endif %}", "y"),
        ("{% unless empty %}y{% else %}n{% endunless %}", "y"),
        ("{% case router %} {% when 'hono', 'itty' %}x{% when 'itty' %}y{% else %}z{% endcase %}", "x"),
        ("{% if empty %}{% if path %}{{ path }}{% else %}no{% endif %}{% endif %}.", "."),
        ("{% raw %}{{ path }}{% if %}{% endraw %}", "{{ path }}{% if %}"),
        ("a{% comment %} {{ nothing }} {% endcomment %}b", "ab"),
        ("1\n  {%- if path %}\n2\n  {%- endif %}\n3", "1\n2\n3"),
    ],
)  # fmt: skip
def test_render(text: str, expected: str) -> None:
    assert render(text, VALUES) == expected


def test_what_is_not_written_is_not_looked_up() -> None:
    assert render("{% if empty %}{{ unknown }}{% endif %}", VALUES) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n{{ unknown }}", "line 2: there is no value `unknown`"),
        ("{{ path | shout }}", "there is no filter `shout`"),
        ("{{ path | append }}", "`append` does not take 0 arguments"),
        ("{{ path path }}", "not understood"),
        ("{{ }}", "not understood"),
        ("{{ path ? 1 }}", "not understood"),
        ("{% for x in y %}", "the tag `for x in y`"),
        ("{% include 'other' %}", "the tag `include"),
        ("{% endif %}", "the tag `endif`"),
        ("{% if path %}{% endcase %}", "the tag `endcase`"),
        ("{% if a b c d %}{% endif %}", "the condition"),
        ("{% if path %}", "`endif` is missing"),
        ("{% raw %}", "`endraw` is missing"),
    ],
)
def test_what_is_not_understood_is_an_error(text: str, message: str) -> None:
    with pytest.raises(TemplateError, match=r"line \d") as caught:
        render(text, VALUES)
    assert message in str(caught.value)
