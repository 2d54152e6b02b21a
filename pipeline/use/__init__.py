"""What a person does with a product: chat, run, ask, bench, serve, inspect, config. One verb, one file."""
