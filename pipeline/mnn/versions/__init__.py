"""Other versions of the engine: an isolated environment for each, and what a product does there."""
