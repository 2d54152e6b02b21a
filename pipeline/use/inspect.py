"""`python -m pipeline inspect PRODUCT`: sizes, precision, operators, tokenizer and configuration of a product."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.errors import UserError
from pipeline.mnn.runner.product import Product, external_end, open_product

_TOKENIZERS = ("sentencepiece", "tiktoken", "bert", "huggingface", "mtok")


def main(arguments: Sequence[str]) -> int:
    """Prints what the files say, without starting the engine."""
    options = _parse(arguments)
    facts = describe(open_product(options.product))
    if options.json:
        print(json.dumps(facts, indent=1, ensure_ascii=False))
        return 0
    print(_page(facts))
    if "tokenizer" in _manifest(Path(facts["folder"])):  # products of other exporters have no such facts
        from pipeline.tokenizer import inspect as tokenizer

        print("", *tokenizer.describe(Path(facts["folder"])), sep="\n")
    return 0


def _manifest(folder: Path) -> dict[str, Any]:
    """The content of manifest.json; empty if there is none."""
    path = folder / "manifest.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def describe(product: Product) -> dict[str, Any]:
    """The facts as JSON-able values."""
    model = product.file("llm_model", "llm.mnn")
    weight = product.file("llm_weight", "llm.mnn.weight")
    facts: dict[str, Any] = {
        "folder": str(product.folder),
        "files": _files(product.folder),
        "vocabulary": product.vocab_size,
        "hidden_size": product.config["hidden_size"],
        "embedding": _embedding(product),
        "weights": {"bytes": weight.stat().st_size, "bytes_referred_to": external_end(model.read_bytes())},
        "tokenizer": _tokenizer(product),
        "verification": _verification(product),
        "engines": _engines(product),
        "runtime": {key: value for key, value in sorted(product.config.items()) if key != "jinja"},
    }
    graph = product.folder / f"{model.name}.json"
    if graph.is_file():
        facts |= _graph(graph)
    return facts


def _files(folder: Path) -> dict[str, int]:
    """Size by path relative to the product."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}


def _verification(product: Product) -> list[str]:
    """What the export proved, a line each; empty for a product without a manifest."""
    told = product.manifest.get("verification")
    if not told:
        return []
    checks = told.get("report", {}).get("checks", [])
    lines = [f"{'verified' if told.get('verified') else 'NOT VERIFIED'} (mode {told.get('mode', '?')})"]
    marks = {True: "ok", False: "NO", None: "--"}
    return lines + [f"  {marks[check['passed']]}  {check['name']}: {_told(check)}" for check in checks]


def _told(check: dict[str, Any]) -> Any:
    return check["value"] if check["passed"] is not None else f"not run: {check['reason']}"


def _engines(product: Product) -> list[str]:
    """What an engine must be, and what other versions made of the product (`doit verify engines=…`), a line each."""
    needs = product.manifest.get("engine")
    lines = [f"for engines from {needs['oldest']} on, built with {', '.join(needs['built_with'])}"] if needs else []
    for version, row in product.manifest.get("engines", {}).items():
        kl = f", KL {row['kld_mean']:.4f}" if "kld_mean" in row else ""
        lines.append(f"  {version}: {row['verdict']}{kl}{', ' + row['failure'] if 'failure' in row else ''}")
    return lines


def _embedding(product: Product) -> str:
    tied = product.config.get("tie_embeddings")
    if not tied:
        return f"separate, {product.config.get('embedding_file', 'embeddings_bf16.bin')}"
    bits = tied["quant_bit"] if isinstance(tied, dict) else tied[3]
    return f"tied to the output head, {bits} bits"


def _tokenizer(product: Product) -> dict[str, Any]:
    path = product.file("tokenizer_file", "tokenizer.txt")
    with path.open("rb") as file:
        kind = int(file.readline(64).split()[1])
    return {"file": path.name, "kind": _TOKENIZERS[kind], "stop_ids": list(product.stop_ids)}


def _graph(path: Path) -> dict[str, Any]:
    """Operators by type, and how many weights there are of each precision, from llm.mnn.json."""
    try:
        net = json.loads(path.read_text(encoding="utf-8"))
        operators = [*net["oplists"], *(node for graph in net.get("subgraphs", []) for node in graph["nodes"])]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is no dump of a graph: {error}") from None
    weights: Counter[str] = Counter()
    for operator in operators:
        if operator["type"] == "Convolution":
            weights[_precision(operator["main"])] += _elements(operator["main"])
    return {
        "operators": dict(Counter(operator["type"] for operator in operators).most_common()),
        "operator_count": len(operators),
        "parameters_by_precision": dict(weights.most_common()),
    }


def _precision(main: dict[str, Any]) -> str:
    quantisation = main.get("quanParameter", {})
    if not quantisation or quantisation.get("type") == 3:
        return "fp16" if quantisation else "fp32"
    columns, rows = main["common"]["inputCount"], main["common"]["outputCount"]
    scales = quantisation.get("readType", 0)
    block = f" block {columns * rows // scales}" if scales > rows else ""
    return f"int{quantisation['aMaxOrBits']}{' symmetric' if not scales else ''}{block}"


def _elements(main: dict[str, Any]) -> int:
    return int(main["common"]["inputCount"]) * int(main["common"]["outputCount"])


def _page(facts: dict[str, Any]) -> str:
    lines = [facts["folder"], ""]
    lines += [f"  {size:>14,}  {name}" for name, size in facts["files"].items()]
    lines += ["", f"vocabulary {facts['vocabulary']:,} · hidden size {facts['hidden_size']:,}"]
    lines += [f"embedding: {facts['embedding']}", f"tokenizer: {json.dumps(facts['tokenizer'])}"]
    if "operators" in facts:
        kinds = ", ".join(f"{kind} {count}" for kind, count in facts["operators"].items())
        lines.append(f"{facts['operator_count']} operators: {kinds}")
        lines += [f"  {count:>14,}  weights in {kind}" for kind, count in facts["parameters_by_precision"].items()]
    lines += ["", *(facts["verification"] or ["no manifest: made by another exporter, or by hand"])]
    lines += ["", *facts["engines"]] if facts["engines"] else []
    lines += ["", *(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in facts["runtime"].items())]
    return "\n".join(lines)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m pipeline inspect", description=__doc__)
    parser.add_argument("product", type=Path)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(list(arguments))
