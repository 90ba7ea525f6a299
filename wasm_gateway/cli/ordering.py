# The commands that tell a site's processes what to do with their guests: reload, rollback.
#
# Rule: nothing is loaded here. An order is written into the ledger, and each process sees to it.

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from .common import opened_ledger, print_text
from .options import FROM, LEDGER, PROFILE, options

if TYPE_CHECKING:
    from ..migration.orders import Act


@click.command()
@options(FROM, PROFILE, LEDGER)
@click.argument("component", required=False)
def reload(source: str | None, profile: str | None, ledger: str, component: str | None) -> None:
    """Have all processes of a site load the guest of COMPONENT again from its file.

    Without COMPONENT: all guests, and the manifest. The old ones answer until the new ones can; what cannot
    be loaded leaves them, and is in the site's log.
    """
    from ..migration.orders import Act

    _order(Act.RELOAD, source, profile, ledger, component)


@click.command()
@options(FROM, PROFILE, LEDGER)
@click.argument("component")
def rollback(source: str | None, profile: str | None, ledger: str, component: str) -> None:
    """Have the guest before the last one of COMPONENT answer again, in all processes.

    In those that start later too, until a file comes that is another one still, or a reload is ordered.
    """
    from ..migration.orders import Act

    _order(Act.ROLLBACK, source, profile, ledger, component)


def _order(act: Act, source: str | None, profile: str | None, ledger: str, component: str | None) -> None:
    from ..manifest import find_manifest, load_manifest
    from ..migration.ledger import operator
    from ..migration.orders import Act, Order, rollback

    if component is not None:
        components = load_manifest(find_manifest(source), profile=profile).components
        if component not in components:
            there = ", ".join(components) or "none"
            raise click.ClickException(f"there is no component {component!r} (there are: {there})")
    with closing(opened_ledger(ledger)) as opened:
        order = Order(act, component)
        if act is Act.ROLLBACK:
            assert component is not None
            order = rollback(opened.dials(), component)
        opened.turn(order.change(operator(f"wasm-gateway {act}")))
    print_text(f"Ordered to {act} {component or 'all guests'}; each process obeys within a second or so.")
