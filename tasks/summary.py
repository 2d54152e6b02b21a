"""The end of a run: what was made, what failed, the exit code."""

from __future__ import annotations

import sys
from pathlib import Path

from pipeline.build.console import product_lines, sweep_table
from pipeline.errors import UserError
from tasks.session import Session


def finish(session: Session) -> int:
    """Print the summary; 0 if every product is there, 3 if a request was wrong, else 1."""
    terminal, outcomes = session.terminal, session.engine.outcomes
    terminal.close()
    session.engine.code.save()
    if len(session.graph.products) == 1:
        for one in session.published:
            for line in product_lines(one, outcomes, shown(one.product.folder)):
                terminal.say(line)
    elif session.published or session.failures:
        made = {one.product.name for one in session.published}
        failed = {product.name: "" for product in session.graph.products if product.name not in made}
        terminal.say("\n" + sweep_table(session.published, failed, outcomes))
    for error in dict.fromkeys(map(str, session.failures.values())):
        sys.stderr.write(f"ERROR: {error}\n")
    if not session.failures:
        return 0
    return 3 if any(isinstance(error, UserError) for error in session.failures.values()) else 1


def shown(folder: Path) -> str:
    """A path as a person would type it here."""
    return str(folder.relative_to(Path.cwd())) if folder.is_relative_to(Path.cwd()) else str(folder)
