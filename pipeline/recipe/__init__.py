"""From conf/*.yaml and the command line to checked recipes."""
