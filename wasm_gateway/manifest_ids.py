# The identifiers of a manifest: kebab ids (components), snake ids, lower snake ids (variables).
#
# Spin: manifest, identifier rules; the checks run in that order and use its words.

from __future__ import annotations

from .toml import Table


def id_error(text: str, delimiter: str, *, lower: bool = False) -> str | None:
    """What is wrong with an id whose words are joined by `delimiter` ("-" or "_"), None if nothing."""
    other = "_" if delimiter == "-" else "-"
    if not text:
        return "empty"
    if other in text:
        return f"words must be separated with '{delimiter}', not '{other}'"
    words = f"'{delimiter}'-separated words"
    for word in text.split(delimiter):
        if not word:
            return f"{words} must not be empty"
        if not (word[0].isascii() and word[0].isalpha()):
            return f"{words} must start with an ASCII letter; got '{word[0]}'"
        for char in word:
            if not (char.isascii() and char.isalnum()):
                return f"{words} may only contain alphanumeric ASCII; got '{char}'"
        if not (word.islower() or word.isupper()):
            return f"{words} must be all lowercase or all UPPERCASE; got '{word}'"
        if lower and not word.islower():
            return f"Lower-case identifiers must be all lowercase; got '{word}'"
    return None


def check_id(table: Table, delimiter: str, text: str, *place: str | int, lower: bool = False) -> None:
    """Raise ManifestError at `place` in `table` unless `text` is an id."""
    problem = id_error(text, delimiter, lower=lower)
    if problem is not None:
        raise table.error(f'invalid id "{text}": {problem}', *place)
