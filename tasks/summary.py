"""The end of a run: what was made and what failed."""

from __future__ import annotations

from pipeline.build.console import product_lines, sweep_table
from tasks.failures import FAILURES
from tasks.places import shown
from tasks.session import Session


def summarise(session: Session) -> None:
    """Print the table of one product, or a row for each of a sweep."""
    terminal, outcomes = session.terminal, session.engine.outcomes
    if session.engine.remote is not None:
        session.engine.remote.finish()
    session.head_start.close()
    session.engine.executor.close()
    terminal.close()
    session.engine.code.save()
    if len(session.graph.products) == 1:
        for one in session.published:
            for line in product_lines(one, outcomes, shown(one.product.folder)):
                terminal.say(line)
    elif session.published or FAILURES:
        made = {one.product.name for one in session.published}
        failed = [product.name for product in session.graph.products if product.name not in made]
        terminal.say("\n" + sweep_table(session.published, failed, outcomes))
