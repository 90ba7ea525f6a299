# A Sphinx extension: ```{generated} NAME``` puts into a page what the code says of itself.
#
# Rule 1: names, types, defaults and versions are read from the code, by the functions in TEXTS,
# which return Markdown. Words that the code does not have are beside them; a name without
# words, and words without a name, are errors of the build.
# Rule 2: these modules know the code; pages know only the names in TEXTS.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from . import api, benchmark, commands, errors, guests, interfaces, manifest, settings, watching

TEXTS: Mapping[str, Callable[..., str]] = {
    "benchmark": benchmark.table,
    "benchmark-machine": benchmark.machine,
    "benchmark-phases": benchmark.phases,
    "benchmark-pairs": benchmark.pairs,
    "wasm-gateway-commands": commands.wasm_gateway,
    "django-commands": commands.django,
    "flask-commands": commands.flask,
    "errors": errors.table,
    "extras": guests.extras,
    "dialects": guests.dialects,
    "templates": guests.templates,
    "values": api.values,
    "wasi": interfaces.wasi,
    "spin": interfaces.spin,
    "interfaces": interfaces.sections,
    "preview1": interfaces.preview1,
    "spin-toml": manifest.spin_toml,
    "options": manifest.options,
    "rules": manifest.rules,
    "runtime-config": manifest.runtime_config,
    "shared-settings": settings.shared,
    "django-settings": settings.django,
    "flask-settings": settings.flask,
    "metrics": watching.metrics,
    "labels": watching.labels,
    "spans": watching.spans,
    "log-fields": watching.log_fields,
}


class Generated(SphinxDirective):
    """The Markdown of a function of TEXTS; what follows its name are its arguments."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        name, *arguments = self.arguments[0].split()
        return self.parse_text_to_nodes(TEXTS[name](*arguments), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("generated", Generated)
    app.connect("missing-reference", api.public_name)
    return {"parallel_read_safe": True}
