"""A project of toy stages in a folder of its own, and the plainest possible scheduler over the real engine."""

from __future__ import annotations

import copy
import shutil
import sys
from pathlib import Path
from typing import Any

from pipeline.build.budget import MemoryBudget
from pipeline.build.code import CodeDigests
from pipeline.build.engine import Engine, Outcome, SourceFiles
from pipeline.build.execution import Executor
from pipeline.build.nodes import Graph, Node, SourceNode, build_graph
from pipeline.build.product import Published, publish, up_to_date
from pipeline.build.stage import Input, Log, Stage
from pipeline.build.store import Blob, Store, hash_file

TOYS = Path(__file__).parent / "toys"
RECIPE: dict[str, Any] = {
    "name": "toy-int4",
    "model": {"name": "toy", "path": ""},
    "quant": {"name": "int4", "bits": 4, "block": 64, "rules": []},
    "adapter": {"mode": "none", "path": ""},
    "target": {"name": "x86", "runtime": {"thread_num": 2}},
    "verify": {"mode": "fast", "limit": 1 << 20},
    "cache": {"dir": ""},
}
# Only `graph` has a worker, as a child takes a tenth of a second to start; the others run here.
STAGES = (
    Stage("checkpoint", "toys.checkpoint", (Input("source", ("*.txt",)),), in_process=True),
    Stage("graph", "toys.graph", (Input("checkpoint", ("config.json",)),)),
    Stage(
        "weights",
        "toys.weights",
        (Input("source", ("*.txt",)), Input("graph", ("layout.json",))),
        config=("quant.bits", "quant.block"),
        in_process=True,
    ),
    Stage(
        "link",
        "toys.link",
        (Input("graph", ("layout.json",)), Input("weights", ("weights.json",))),
        tools=("numpy",),
        in_process=True,
    ),
    Stage("config", "toys.config", (), config=("target.runtime",), in_process=True),
    Stage(
        "quality",
        "toys.quality",
        (Input("link"), Input("weights")),
        config=("verify.limit",),
        in_process=True,
        applies=lambda recipe: recipe["verify"]["mode"] != "off",
    ),
)


class Listener:
    """A console that remembers."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.notes: list[str] = []
        self.bars: list[tuple[int, int, str]] = []

    def started(self, node: Node) -> Log:
        return self

    def finished(self, node: Node, outcome: Outcome) -> None:
        self.lines.append(f"{node.name} {outcome.how}")

    def log(self, title: str) -> Log:
        return self

    def say(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: int, total: int, what: str) -> None:
        self.bars.append((done, total, what))

    def note(self, text: str) -> None:
        self.notes.append(text)


def forget_modules() -> None:
    """Toy stages that ran in this process are imported anew."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "toys"]:
        del sys.modules[name]


class Project:
    """root/toys: the stages; root/source: the model; root/store; root/artifacts; root/calls: which stages ran."""

    def __init__(self, root: Path, monkeypatch: Any) -> None:
        self.root = root
        self.calls_file = root / "calls"
        self.source = root / "source"
        shutil.copytree(TOYS, root / "toys", ignore=shutil.ignore_patterns("__pycache__"))
        self.source.mkdir()
        (self.source / "model.txt").write_text("some weights")
        (self.source / "unrelated.bin").write_text("never read")
        monkeypatch.setenv("PYTHONPATH", str(root))
        monkeypatch.setenv("TOY_CALLS", str(self.calls_file))
        monkeypatch.syspath_prepend(str(root))
        self.stages = STAGES
        self.listener = Listener()

    def recipe(self, **values: Any) -> dict[str, Any]:
        """The toy recipe with dotted keys replaced (`quant__bits=8`)."""
        recipe = copy.deepcopy(RECIPE)
        for path, value in values.items():
            *parents, leaf = path.split("__")
            holder = recipe
            for name in parents:
                holder = holder[name]
            holder[leaf] = value
        return recipe

    def graph(self, *recipes: dict[str, Any]) -> Graph:
        return build_graph(recipes or [self.recipe()], self.stages, self.root / "artifacts")

    def engine(self, store: Path | None = None, **options: Any) -> Engine:
        place = Store(store or self.root / "store")
        place.create()
        self.listener = Listener()
        code = CodeDigests(None, self.root)
        executor = Executor(place, code, self.listener, MemoryBudget(1 << 40))
        return Engine(executor, self._resolve, self.listener, **options)

    def build(self, *recipes: dict[str, Any], **options: Any) -> dict[str, str]:
        """Stage → hit, remote or built. Of several recipes the last one's."""
        engine = self.engine(**options)
        return self.run(engine, self.graph(*recipes))

    def run(self, engine: Engine, graph: Graph) -> dict[str, str]:
        for source in graph.sources.values():
            engine.resolve(source, self.listener)
        for node in graph.nodes.values():
            if not engine.lookup(node):
                engine.build(node)
        return {node.name: engine.outcomes[node.id].how for node in graph.nodes.values()}

    def export(self, recipe: dict[str, Any] | None = None, **options: Any) -> Published:
        """Build and publish one recipe."""
        engine = self.engine(**options)
        graph = self.graph(recipe or self.recipe())
        self.run(engine, graph)
        product = graph.products[0]
        return up_to_date(engine, product) or publish(engine, product)

    def edit(self, stage: str, old: str, new: str) -> None:
        """Change a toy stage's code."""
        path = self.root / "toys" / f"{stage}.py"
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))
        forget_modules()

    @property
    def calls(self) -> list[str]:
        """The stages that ran since the last look."""
        lines = self.calls_file.read_text().split() if self.calls_file.exists() else []
        self.calls_file.unlink(missing_ok=True)
        return lines

    def _resolve(self, node: SourceNode, log: Log) -> SourceFiles:
        paths = {path.name: path for path in sorted(self.source.iterdir())}
        files = {name: Blob(hash_file(path), path.stat().st_size) for name, path in paths.items()}
        return SourceFiles(files, paths, "", "directory")
