"""layout.json and weights.json → llm.mnn."""

from toys.shared import called


def run(config, inputs, out, log):
    called("link")
    parts = (inputs["graph"] / "layout.json").read_text(), (inputs["weights"] / "weights.json").read_text()
    (out / "llm.mnn").write_text("|".join(parts))
    (out / "llm.mnn.json").write_text("[]")
