# The commands, from click's objects and from argparse's.

from __future__ import annotations

import argparse
import inspect
import pkgutil

import click
from django.core.management import load_command_class

from wasm_gateway.cli import cli
from wasm_gateway.integrations.django.management import commands as django_commands
from wasm_gateway.integrations.flask.commands import wasm

from .text import table

Row = tuple[str, str]


def wasm_gateway() -> str:
    return _group(cli, "wasm-gateway")


def flask() -> str:
    return _group(wasm, "flask wasm")


def django() -> str:
    sections = []
    for module in pkgutil.iter_modules(django_commands.__path__):
        command = load_command_class("wasm_gateway.integrations.django", module.name)
        parser = command.create_parser("manage.py", module.name)
        own = argparse.ArgumentParser(f"manage.py {module.name}", add_help=False)
        command.add_arguments(own)
        usage = " ".join(own.format_usage().removeprefix("usage: ").split())
        rows = [_argument(action) for action in own._actions]
        sections.append(_section(f"manage.py {module.name}", usage, parser.description or "", rows))
    return "\n".join(sections)


def _group(group: click.Group, name: str) -> str:
    sections = []
    for key in sorted(group.commands):
        command = group.commands[key]
        if isinstance(command, click.Group):
            sections += [_group(command, f"{name} {key}")]
        else:
            sections.append(_command(command, f"{name} {key}"))
    return "\n".join(sections)


def _command(command: click.Command, name: str) -> str:
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    rows = [row for each in command.get_params(context) if (row := _option(each, context)) is not None]
    return _section(name, usage, inspect.cleandoc(command.help or ""), rows)


def _option(parameter: click.Parameter, context: click.Context) -> Row | None:
    """Names and help of an option, as `--help` has them; None for what that hides."""
    record = parameter.get_help_record(context)
    if record is None or "--help" in parameter.opts or not record[1]:
        return None  # arguments are in the usage
    names, help = record
    return f"`{names}`", help


def _argument(action: argparse.Action) -> Row:
    metavar = action.metavar or (
        "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest
    )
    if not action.option_strings:
        return f"`{metavar}`", str(action.help or "")
    value = "" if action.nargs == 0 else f" {metavar if action.metavar else action.dest.upper()}"
    if action.choices:
        value = f" {metavar}"
    return f"`{', '.join(action.option_strings)}{value}`", str(action.help or "")


def _section(name: str, usage: str, help: str, rows: list[Row]) -> str:
    text = f"### {name}\n\n```text\n{usage}\n```\n\n{_sentence(help)}\n\n"
    if rows:
        text += table(("option", "meaning"), [(names, _sentence(words)) for names, words in rows])
    return text


def _sentence(help: str) -> str:
    """Help as Markdown: what it has of angle brackets and stars is meant as it stands."""
    return help.replace("\b\n", "").replace("<", "&lt;").replace("*", "\\*")
