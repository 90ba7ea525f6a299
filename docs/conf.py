# The documentation site: `make docs` builds it into build/docs/html, and every warning is an error.
#
# Pages are Markdown (MyST). What can be read from the code is never written by hand: a
# `{generated}` block (generate/) puts it into a page of the reference.

from __future__ import annotations

import sys
from pathlib import Path

import django.conf

import wasm_gateway

sys.path.insert(0, str(Path(__file__).parent))
if not django.conf.settings.configured:
    django.conf.settings.configure()  # what is documented is imported

project = "wasm-gateway"
copyright = "the wasm-gateway authors"
author = "the wasm-gateway authors"
version = release = wasm_gateway.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton", "generate"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["generate"]

myst_enable_extensions = ["attrs_block", "attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 4  # [text](page.md#a-heading) works for headings of this depth

autodoc_typehints = "signature"
autodoc_member_order = "bysource"

nitpick_ignore_regex = [
    (r"py:.*", r"(?!wasm_gateway).*"),  # of Python and of other packages: a build needs no network
    (r"py:.*", r"wasm_gateway\.(manifest|router)\..*"),  # what a Gateway is made of, not for sites
]

copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True

html_theme = "furo"
html_title = f"wasm-gateway {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
smartquotes = False  # `--flag` is two hyphens
default_role = "code"  # docstrings have single backticks
