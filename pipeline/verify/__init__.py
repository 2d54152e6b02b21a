"""How a product is proved: fixed texts, the Hugging Face reference, metrics, and the gate's checks."""
