# The files of a component: its Wasm, and what of the application's folder it sees.
#
# Rule 1: nothing outside of the manifest's folder reaches a guest, neither by a
# path with ".." nor through a symbolic link.
# Rule 2: a file or folder is made under a name nobody looks for and then renamed,
# so that processes which start side by side never see half of one.
# Rule 3: no network, except for a source that has a URL or is in a registry.
#
# Spin: manifest, sections 2.5 and 7. One thing it does is a mistake and is done right here: a folder
# named by a plain string ("static") appears at /static, not at /static/static.

from __future__ import annotations

import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .downloads import Client, DownloadFailed, cached, digest_of
from .errors import ManifestError
from .manifest import Component, FileMapping, PathSource, RegistrySource, UrlSource, error_in


@dataclass(frozen=True, slots=True)
class Mount:
    """The folder `host_path` appears to the guest as `guest_path`, which begins with "/"."""

    guest_path: str
    host_path: Path
    writable: bool = False


# -- sources -----------------------------------------------------------------------------------------


def load_source(
    component: Component,
    cache_dir: Path,
    *,
    manifest_path: Path | None = None,
    place: tuple[str | int, ...] = ("source",),
) -> Path:
    """The file that holds the Wasm of `component`; ManifestError where there is none.

    A URL is downloaded once into `cache_dir`, and its digest is compared at every load; so is an exact
    version of a package. A range of versions is looked up each time. `place` is the key of the component that
    is spoken of.
    """

    def error(message: str) -> ManifestError:
        return error_in(manifest_path, message, "component", component.id, *place)

    part = "source" if place == ("source",) else f"dependency {place[-1]}"
    what = f"the {part} of component `{component.id}`"
    match component.source:
        case PathSource(path):
            if not path.is_file():
                reason = "is not a file" if path.exists() else "does not exist"
                build = (
                    ""
                    if component.build is None
                    else f"build it (`{'; '.join(component.build.commands)}`), or "
                )
                raise error(
                    f"{what}, {path}, {reason}: {build}"
                    "leave this component out by naming the others with -c/--component-id"
                )
            return path
        case UrlSource(url, digest):
            target = cached(cache_dir, digest)
            if digest_of(target) == digest:
                return target
            try:
                with Client() as client:
                    client.download(url, digest, target)
            except DownloadFailed as failure:
                raise error(f"{what} cannot be had from {url}: {failure}") from None
            return target
        case RegistrySource() as package:
            from .registry import fetch_package  # slow to import, and only this needs it

            try:
                return fetch_package(package, cache_dir)
            except DownloadFailed as failure:
                raise error(f"{what} cannot be had: {failure}") from None


# -- files -------------------------------------------------------------------------------------------


def prepare_files(
    component: Component,
    manifest_folder: Path,
    *,
    work_dir: Path,
    direct_mounts: bool = False,
    writable: bool = False,
    in_place: bool = False,
    manifest_path: Path | None = None,
) -> tuple[Mount, ...]:
    """What the guest of `component` sees as its file system; nothing where it has no `files`.

    The files are copied to `work_dir`/assets/<component id>, mounted at "/". With `direct_mounts` every
    entry must be a folder, and is mounted itself. `in_place` does so too, but only where a guest cannot tell
    the difference until the folder changes: one folder mapped to "/", without `exclude_files`, not
    `writable`. ManifestError says what is wrong with an entry.
    """
    if not component.files:
        return ()
    files = _Files(component, manifest_folder, manifest_path)
    if direct_mounts:
        return files.direct(writable)
    if in_place and not writable:
        mounts = files.shared()
        if mounts:
            return mounts
    return (Mount("/", files.copy(work_dir / "assets"), writable),)


class _Files:
    """The `files` of one component. Paths within the folder are relative texts with "/", "" is the folder."""

    def __init__(self, component: Component, folder: Path, manifest_path: Path | None) -> None:
        self.component = component
        self.root = os.path.abspath(folder)
        self.real_root = os.path.realpath(folder)
        self.manifest_path = manifest_path
        self.index = 0  # of the entry that is being read, for errors
        self.excludes: list[re.Pattern[str]] = []

    def error(self, message: str) -> ManifestError:
        return error_in(self.manifest_path, message, "component", self.component.id, "files", self.index)

    def entries(self) -> Iterator[str | FileMapping]:
        for index, entry in enumerate(self.component.files):
            self.index = index
            yield entry

    # -- three ways to show them -----------------------------------------------------------------

    def copy(self, assets: Path) -> Path:
        """Copy all files; the folder they are in."""
        for index, pattern in enumerate(self.component.exclude_files):
            try:
                self.excludes.append(_regex(pattern))
            except ValueError as error:
                place = ("component", self.component.id, "exclude_files", index)
                raise error_in(
                    self.manifest_path, f'invalid exclude_files pattern "{pattern}": {error}', *place
                ) from None
        plan: dict[str, str] = {}  # what appears where; the last entry wins
        for entry in self.entries():
            plan.update(self.pattern(entry) if isinstance(entry, str) else self.mapping(entry))
        try:
            assets.mkdir(parents=True, exist_ok=True)
            made = tempfile.mkdtemp(dir=assets, prefix=f".{self.component.id}-")
            try:
                for destination, source in plan.items():
                    self.copy_file(made, source, destination)
                # a server may load as root and serve as another user; who may come here `work_dir` decides
                os.chmod(made, 0o755)
                return _put_in_place(made, assets / self.component.id)
            except BaseException:
                shutil.rmtree(made, ignore_errors=True)
                raise
        except OSError as error:
            raise ManifestError(
                f"the files of component `{self.component.id}` cannot be copied: {error}",
                path=self.manifest_path,
            ) from None

    def copy_file(self, made: str, source: str, destination: str) -> None:
        origin = os.path.join(self.root, source)
        target = os.path.join(made, destination)
        try:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(origin, target)
        except (FileExistsError, NotADirectoryError, IsADirectoryError):
            raise ManifestError(
                f'component `{self.component.id}`: "/{destination}" is not a valid destination file name: '
                "another entry puts a folder in its place, or a file in the place of its folder",
                path=self.manifest_path,
            ) from None
        # what a file server makes its validators of stays the same in every process
        status = os.stat(origin)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def direct(self, writable: bool) -> tuple[Mount, ...]:
        if self.component.exclude_files:
            raise error_in(
                self.manifest_path,
                "Cannot load a component with `exclude_files` using --direct-mounts",
                *("component", self.component.id, "exclude_files"),
            )
        mounts = []
        for entry in self.entries():
            text, destination = (
                (entry, entry) if isinstance(entry, str) else (entry.source, entry.destination)
            )
            source = self.relative(text)
            if not os.path.isdir(os.path.join(self.root, source)):
                raise self.error(
                    f'Only directory mounts are supported with --direct-mounts; "{text}" is not a directory.'
                )
            host_path = self.real_path(source, text)
            mounts.append(Mount("/" + self.destination(destination), Path(host_path), writable))
        return tuple(mounts)

    def shared(self) -> tuple[Mount, ...]:
        """The one folder that is mapped to "/", if that is all there is."""
        entry = next(self.entries())
        if len(self.component.files) > 1 or self.component.exclude_files or isinstance(entry, str):
            return ()
        source = self.relative(entry.source)
        if self.destination(entry.destination) or not os.path.isdir(os.path.join(self.root, source)):
            return ()
        return (Mount("/", Path(self.real_path(source, entry.source)), False),)

    # -- what an entry means: pairs of destination and source ------------------------------------

    def pattern(self, text: str) -> Iterator[tuple[str, str]]:
        for name, words in (("..", "parent"), (".", "current")):
            if text == name or text.endswith("/" + name):
                raise self.error(
                    f"A file pattern can't end in a {words} directory path ({name}); to include a folder, "
                    "use `{ source, destination }` or a pattern ending in **/*"
                )
        source = self.relative(text)
        path = os.path.join(self.root, source)
        if os.path.isdir(path):
            self.real_path(source, text)
            for found in self.glob(source, ["**", "*"], text):
                yield found, found
        elif os.path.exists(path):
            self.real_path(source, text)
            yield source, source
        elif any(char in text for char in "*?["):
            # a trailing slash asks for folders, and only files are taken
            if not text.endswith("/"):
                for found in self.glob("", source.split("/"), text):
                    yield found, found
        else:
            raise self.error(f'"{text}" does not exist and doesn\'t appear to be a glob pattern')

    def mapping(self, mapping: FileMapping) -> Iterator[tuple[str, str]]:
        source = self.relative(mapping.source)
        path = os.path.join(self.root, source)
        if not os.path.exists(path):
            raise self.error(f'File or directory "{mapping.source}" does not exist')
        self.real_path(source, mapping.source)
        destination = self.destination(mapping.destination)
        if os.path.isdir(path):
            cut = len(source) + 1 if source else 0
            for found in self.glob(source, ["**", "*"], mapping.source):
                yield posixpath.join(destination, found[cut:]), found
        elif not destination or mapping.destination.endswith(("/", "/.", "/..")):
            raise self.error(f'"{mapping.destination}" is not a valid destination file name')
        else:
            yield destination, source

    def relative(self, text: str) -> str:
        """A path or pattern of the manifest as one within the folder."""
        if os.path.isabs(text):
            if not (text + "/").startswith(self.root + "/"):
                raise self.outside(text)
            text = text[len(self.root) :]
        parts: list[str] = []
        for part in text.replace(os.sep, "/").split("/"):
            if part == "..":
                if not parts:
                    raise self.outside(text)
                parts.pop()
            elif part not in ("", "."):
                parts.append(part)
        return "/".join(parts)

    def destination(self, text: str) -> str:
        """A guest path without the "/" it begins with."""
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if ".." in parts or "\0" in text:
            raise self.error(f'"{text}" is not a valid destination')
        return "/".join(parts)

    def outside(self, text: str) -> ManifestError:
        return self.error(f"{text} cannot be mapped because it is outside the application directory")

    def real_path(self, source: str, text: str) -> str:
        """Where `source` really is; an error if a symbolic link leads out of the folder."""
        path = os.path.realpath(os.path.join(self.root, source))
        if path != self.real_root and not path.startswith(os.path.join(self.real_root, "")):
            raise self.error(
                f"{text} cannot be mapped because it is outside the application directory: "
                f"{source} is a symbolic link to {path}"
            )
        return path

    # -- globbing --------------------------------------------------------------------------------

    def glob(self, base: str, parts: list[str], text: str) -> Iterator[str]:
        """The regular files under `base` that `parts` match and `exclude_files` do not.

        As Rust's `glob`: "*" stays within one name and also matches a leading dot, "**" is any number of
        folders, and at the end of a pattern it matches folders only, that is, nothing here.
        """
        names: list[re.Pattern[str] | None] = []
        for part in parts:
            if part == "**":
                if names[-1:] != [None]:
                    names.append(None)
            else:
                try:
                    names.append(_regex(part))
                except ValueError as error:
                    raise self.error(f'invalid pattern "{text}": {error}') from None
        if names[-1] is None:
            return
        seen: set[tuple[str, int]] = set()
        # folder, index of the name to match in it, where it and the folders around it really are
        todo: list[tuple[str, int, tuple[str, ...]]] = [(base, 0, (self.real_path(base, text),))]
        while todo:
            folder, step, chain = todo.pop()
            if (folder, step) in seen:
                continue
            seen.add((folder, step))
            name = names[step]
            last = step + 1 == len(names)
            if name is None:
                todo.append((folder, step + 1, chain))
            for child, is_folder, is_link in self.children(folder):
                path = f"{folder}/{child}" if folder else child
                if name is None:
                    wanted = is_folder
                else:
                    wanted = is_folder != last and name.fullmatch(child) is not None
                if not wanted or ((is_link or not is_folder) and self.excluded(path)):
                    continue
                real = self.real_path(path, text) if is_link else f"{chain[-1]}/{child}"
                if not is_folder:
                    yield path
                elif real not in chain:
                    todo.append((path, step if name is None else step + 1, (*chain, real)))

    def children(self, folder: str) -> list[tuple[str, bool, bool]]:
        """Names of folders and regular files in `folder`: (name, is a folder, is a link)."""
        found = []
        try:
            with os.scandir(os.path.join(self.root, folder)) as entries:
                for entry in entries:
                    try:
                        mode = entry.stat().st_mode
                    except OSError:
                        continue  # a link to nowhere
                    if stat.S_ISDIR(mode) or stat.S_ISREG(mode):
                        found.append((entry.name, stat.S_ISDIR(mode), entry.is_symlink()))
        except OSError as error:
            raise self.error(f"{folder or '.'} cannot be read: {error.strerror}") from None
        return sorted(found)

    def excluded(self, path: str) -> bool:
        return any(pattern.fullmatch(path) for pattern in self.excludes)


def _put_in_place(made: str, target: Path) -> Path:
    """Rename the folder `made` to `target`, which may be there already."""
    for _ in range(10):
        try:
            os.rename(made, target)
            return target
        except OSError:
            if not target.exists():
                raise
        aside = tempfile.mkdtemp(dir=target.parent, prefix=".old-")
        try:
            os.rename(target, aside)  # onto an empty folder
        except FileNotFoundError:
            pass  # somebody else has taken it away
        shutil.rmtree(aside, ignore_errors=True)
    raise OSError(f"{target} is being replaced all the time")


def _regex(pattern: str) -> re.Pattern[str]:
    """A pattern of Rust's `glob` crate with its default options, in which "*" matches "/" as well.

    ValueError says what is wrong with it.
    """
    regex, position, size = "", 0, len(pattern)
    while position < size:
        char = pattern[position]
        if char == "*":
            end = position
            while pattern[end : end + 1] == "*":
                end += 1
            if end - position > 2:
                raise ValueError("wildcards are either `*` or `**`")
            if end - position == 1:
                regex += ".*"
            else:
                starts = position == 0 or pattern[position - 1] == "/"
                if not starts or pattern[end : end + 1] not in ("", "/"):
                    raise ValueError("`**` must stand between slashes")
                if end < size:
                    regex += "(?:.*/)?"
                    end += 1
                else:
                    regex += ".*"
            position = end
        elif char == "?":
            regex += "."
            position += 1
        elif char == "[":
            negated = pattern[position + 1 : position + 2] == "!"
            start = position + 1 + negated
            end = pattern.find("]", start + 1)
            if end < 0:
                raise ValueError("`[` without `]`")
            ranges = _ranges(pattern[start:end])
            if ranges:
                regex += f"[{'^' * negated}{ranges}]"
            else:
                regex += "." if negated else "(?!)"
            position = end + 1
        else:
            regex += re.escape(char)
            position += 1
    return re.compile(regex, re.DOTALL)


def _ranges(text: str) -> str:
    """The inside of a character class, "" for one that no character is in."""
    parts, position = "", 0
    while position < len(text):
        if text[position + 1 : position + 2] == "-" and position + 2 < len(text):
            low, high = text[position], text[position + 2]
            if low <= high:
                parts += f"{re.escape(low)}-{re.escape(high)}"
            position += 3
        else:
            parts += re.escape(text[position])
            position += 1
    return parts
