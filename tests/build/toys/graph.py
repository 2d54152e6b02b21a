"""config.json → llm.onnx and layout.json; does not know the bits."""

from toys.shared import called


def run(config, inputs, out, log):
    called("graph")
    text = (inputs["checkpoint"] / "config.json").read_text()
    (out / "llm.onnx").write_text("graph of " + text)
    (out / "layout.json").write_text(f"[{text}]")
