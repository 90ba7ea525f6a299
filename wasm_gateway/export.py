# What takes an application past one machine: a SpinApp for SpinKube, the commands that
# push the same folder with Spin, a Containerfile for the Python site.
#
# Rule 1: texts come out, nothing is run, and no secret goes into one: what is required
# or secret is a reference into a Secret that the cluster's owner makes.
# Rule 2: what would not run elsewhere is said in the text, not left to be found there.
#
# SpinApp: core.spinkube.dev/v1alpha1 of spinframework/spin-operator.

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .component_options import DEFAULT_OPTIONS, ComponentOptions
from .errors import ManifestError
from .manifest import Component, Manifest, OtherTrigger, PathSource, RedisTrigger
from .sites import Site, source_of

EXECUTOR = "containerd-shim-spin"
HEALTH = "/.well-known/spin/health"
PYTHON = "3.13"
PORT = 8000


# What does not travel


def caveats(manifest: Manifest) -> list[str]:
    """What of the application means nothing to Spin, or would not run there."""
    found = []
    unread: dict[tuple[str, ...], list[str]] = {}
    for component in manifest.components.values():
        options = component.options
        if options.host_interfaces:
            names = ", ".join(options.host_interfaces)
            found.append(
                f"component {component.id} imports what this site lends ({names}): Spin cannot run it"
            )
        elif options.governed:
            found.append(f"component {component.id} answers only in part here: on Spin it answers always")
        source = component.source
        if isinstance(source, PathSource) and source.path.suffix == ".wat":
            found.append(
                f"component {component.id} is text, which Spin does not read: make a binary of it "
                f"(wasm-tools parse {source.path.name} -o {source.path.stem}.wasm), and name that"
            )
        unread.setdefault(_changed(options), []).append(component.id)
    for unread_names, ids in unread.items():
        if unread_names:
            found.append(f"Spin does not read {', '.join(unread_names)} (of {', '.join(ids)})")
    for trigger in manifest.triggers:
        if isinstance(trigger, OtherTrigger):
            found.append(f"trigger {trigger.id} needs the plugin trigger-{trigger.type} where it runs")
    return found


def _changed(options: ComponentOptions) -> tuple[str, ...]:
    """Names of limits that are not the defaults."""
    plain = DEFAULT_OPTIONS
    ruled = ("rule", "routes", "host_interfaces")
    names = [each.name for each in dataclasses.fields(options) if each.name not in ruled]
    return tuple(name for name in names if getattr(options, name) != getattr(plain, name))


# SpinKube


def spinapp(
    manifest: Manifest,
    image: str,
    *,
    replicas: int = 2,
    executor: str = EXECUTOR,
    components: Sequence[str] = (),
    runtime_config: str | Path | None = None,
) -> str:
    """The SpinApp resource for `image`, in YAML; `components` are those to run, all when empty.

    A runtime configuration is read from a Secret, whose making stands in a comment.
    """
    name = kubernetes_name(manifest.name)
    comments = [f"# {line}" for line in _printable(caveats(manifest))]
    spec: dict[str, Any] = {"image": image, "executor": executor, "replicas": replicas}
    if components:
        spec["components"] = list(components)
    variables = []
    for variable in manifest.variables.values():
        if variable.required or variable.secret:
            reference = {"name": f"{name}-variables", "key": variable.name, "optional": not variable.required}
            variables.append({"name": variable.name, "valueFrom": {"secretKeyRef": reference}})
    if variables:
        spec["variables"] = variables
        pairs = " ".join(f"--from-literal={each['name']}=..." for each in variables)
        comments.append(f"# kubectl create secret generic {name}-variables {pairs}")
    if runtime_config is not None:
        spec["runtimeConfig"] = {"loadFromSecret": f"{name}-runtime-config"}
        file = shlex.quote(f"runtime-config.toml={runtime_config}")
        comments.append(f"# kubectl create secret generic {name}-runtime-config --from-file={file}")
    if manifest.http_triggers:
        probe = {"httpGet": {"path": HEALTH}}
        spec["checks"] = {"liveness": probe, "readiness": probe}
    memory = _memory(manifest)
    spec["resources"] = {
        "requests": {"cpu": "100m", "memory": f"{memory}Mi"},
        "limits": {"memory": f"{4 * memory}Mi"},
    }
    resource = {
        "apiVersion": "core.spinkube.dev/v1alpha1",
        "kind": "SpinApp",
        "metadata": {"name": name},
        "spec": spec,
    }
    return "\n".join([*comments, *yaml(resource), ""])


def _memory(manifest: Manifest) -> int:
    """MiB for a pod that does little: the code of its guests, and a shim."""
    size = 0
    for component in manifest.components.values():
        if isinstance(component.source, PathSource) and component.source.path.is_file():
            size += component.source.path.stat().st_size
    return 64 + 4 * (size >> 20)


def kubernetes_name(text: str) -> str:
    """`text` as the name of a resource and of its Service (RFC 1035, a label)."""
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if not name[:1].isalpha():
        name = f"app-{name}".rstrip("-")
    return name[:50].rstrip("-")  # what is derived from it has to fit too


# Words that are no texts in one version of YAML or another.
_RESERVED = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")


def yaml(value: Mapping[str, Any], indent: str = "") -> list[str]:
    """Lines of YAML, for tables, lists, texts, numbers and booleans; every text is quoted."""
    lines = []
    for key, item in value.items():
        bare = re.fullmatch(r"[A-Za-z][A-Za-z0-9]*", key) and key.lower() not in _RESERVED
        name = key if bare else _scalar(key)
        if isinstance(item, Mapping) and item:
            lines += [f"{indent}{name}:", *yaml(item, indent + "  ")]
        elif isinstance(item, list) and item:
            lines.append(f"{indent}{name}:")
            for each in item:
                if isinstance(each, Mapping) and each:
                    first, *rest = yaml(each, indent + "    ")
                    lines += [f"{indent}  - {first.lstrip(' ')}", *rest]
                else:
                    lines.append(f"{indent}  - {_scalar(each)}")
        else:
            lines.append(f"{indent}{name}: {_scalar(item)}")
    return lines


def _scalar(value: object) -> str:
    # JSON is YAML, but for characters that YAML does not take as they are
    text = json.dumps(value, ensure_ascii=False)
    return re.sub(r"[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _printable(lines: Sequence[str]) -> list[str]:
    return [re.sub(r"[^ -~]+", " ", line) for line in lines]


# Spin


def spin_commands(manifest: Manifest, image: str) -> str:
    """The commands that push this folder with Spin and run it, as a shell script."""
    folder = manifest.folder
    source = "spin.toml" if manifest.path is None else manifest.path.name
    quoted, pushed = shlex.quote(source), shlex.quote(image)
    registry = image.partition("/")[0] if "/" in image else "docker.io"
    builds = [component for component in manifest.components.values() if component.build]
    registered = [c for c in manifest.components.values() if not isinstance(c.source, PathSource)]
    lines = [
        "#!/bin/sh",
        f"# The application {_printable([manifest.name])[0]}, as it is, for Spin and for SpinKube.",
        *[f"# {line}" for line in _printable(caveats(manifest))],
        "set -eu",
        f"cd {shlex.quote(str(folder))}",
    ]
    if builds:
        lines.append(f"spin build -f {quoted}")
    if registered:
        lines.append(f"# Spin downloads what has a URL: {', '.join(_printable([c.id for c in registered]))}")
    lines += [
        "# To try it first:",
        f"#   spin up -f {quoted}",
        "# Where the registry asks who you are:",
        f"#   spin registry login {shlex.quote(registry)}",
        f"spin registry push -f {quoted} {pushed}",
        "# From then on, anywhere, or on a cluster with SpinKube:",
        f"#   spin up -f {pushed}",
        f"#   wasm-gateway export spinapp -f {quoted} --image {pushed} | kubectl apply -f -",
    ]
    return "\n".join([*lines, ""])


def default_image(manifest: Manifest) -> str:
    """A reference that its owner has yet to make his own."""
    tag = re.sub(r"[^A-Za-z0-9_.-]", "-", manifest.version)[:128].lstrip(".-") or "latest"
    return f"registry.example.com/{kubernetes_name(manifest.name)}:{tag}"


# Containers


def containerfile(manifest: Manifest, site: Site | None) -> str:
    """The Containerfile of the site that serves the manifest; without a site, of `wasm-gateway up`.

    Its context is the site's folder (the manifest's without one). Raises ManifestError when the manifest or a
    guest lies outside.
    """
    context = manifest.folder if site is None else site.folder
    path = _inside(manifest.path or manifest.folder / "spin.toml", context, "the manifest")
    for component in manifest.components.values():
        _inside_component(component, context)
    needed = sorted({*_extras(manifest), *([site.framework] if site else [])})
    packages = [f"wasm-gateway[{','.join(needed)}]" if needed else "wasm-gateway"]
    if site is not None:
        packages.append("gunicorn")
    lines = [
        f"# {_printable([manifest.name])[0]}: {'the site with its' if site else 'the'} Wasm routes.",
        "# Build the guests before (their .wasm files are copied as they are):",
        "#   podman build -t NAME .   or   docker build -f Containerfile -t NAME .",
        f"FROM docker.io/library/python:{PYTHON}-slim",
        "ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1",
        "RUN useradd --create-home --uid 10001 site && install -d -o site -g site /app",
        "WORKDIR /app",
    ]
    files = [
        name for name in ("requirements.txt", "pyproject.toml", "setup.py") if (context / name).is_file()
    ]
    if "requirements.txt" in files:
        lines += ["COPY requirements.txt ./", "RUN pip install -r requirements.txt"]
    lines.append(f"RUN pip install {' '.join(map(shlex.quote, packages))}")
    lines.append("COPY --chown=site:site . .")
    if "requirements.txt" not in files and _is_package(context, files):
        lines.append("RUN pip install .")
    lines += [
        "# The user that serves compiles: code of others is not loaded, and workers start at once.",
        "# On another kind of processor the first start compiles again.",
        "USER site",
        f"RUN {_compile(site, path)}",
    ]
    if site is not None and site.has_static_root:
        lines.append("RUN python manage.py collectstatic --noinput")
    lines += [
        "# Stores and logs are in .spin beside the manifest: mount a volume there, or keep them in Redis.",
        f"EXPOSE {PORT}",
        f"CMD {json.dumps(_serve(site, path))}",
    ]
    return "\n".join([*lines, ""])


# What has no place in an image, in the words of .containerignore.
IGNORED = (
    ".git",
    ".venv",
    "**/__pycache__",
    "**/.spin",
    "**/target",
    "**/node_modules",
    "**/*.sqlite3",
    ".env",
)


def containerignore(manifest: Manifest) -> str:
    """What is not to be copied; the folders in which guests lie are."""
    sources = [c.source.path for c in manifest.components.values() if isinstance(c.source, PathSource)]
    parts = {part for path in sources for part in path.parts}
    return "\n".join([*(each for each in IGNORED if each.rpartition("/")[2] not in parts), ""])


def _inside(path: Path, context: Path, what: str) -> str:
    try:
        return path.resolve().relative_to(context.resolve()).as_posix()
    except ValueError:
        raise ManifestError(f"{what}, {path}, lies outside of {context}, which becomes the image") from None


def _inside_component(component: Component, context: Path) -> None:
    if isinstance(component.source, PathSource):
        _inside(component.source.path, context, f"the Wasm of component {component.id}")


def _is_package(context: Path, files: Sequence[str]) -> bool:
    return "setup.py" in files or "[build-system]" in source_of(context / "pyproject.toml")


_EXTRAS = {"redis": "redis", "rediss": "redis", "postgres": "postgres", "mysql": "mysql", "mqtt": "mqtt"}


def _extras(manifest: Manifest) -> set[str]:
    """Extras of this package, by what the components may reach."""
    found = {"redis"} if any(isinstance(trigger, RedisTrigger) for trigger in manifest.triggers) else set()
    for component in manifest.components.values():
        for host in component.allowed_outbound_hosts:
            extra = _EXTRAS.get(host.partition("://")[0])
            found |= {extra} if extra else set()
    return found


def _compile(site: Site | None, manifest: str) -> str:
    if site is None:
        return f"wasm-gateway compile -f {shlex.quote(manifest)}"
    if site.framework == "django":
        return "python manage.py wasm_compile"
    return f"flask --app {shlex.quote(site.application)} wasm compile"


def _serve(site: Site | None, manifest: str) -> list[str]:
    if site is None:
        return ["wasm-gateway", "up", "-f", manifest, "--listen", f"0.0.0.0:{PORT}"]
    threads = ["--worker-class", "gthread", "--workers", "2", "--threads", "8"]
    return ["gunicorn", "--bind", f"0.0.0.0:{PORT}", *threads, site.application]
