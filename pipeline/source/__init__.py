"""Where a model's files come from, and their digests. Importing this costs nothing: the hubs' libraries load on use."""

from pipeline.source.listing import SourceFile, SourceListing
from pipeline.source.resolve import resolve, resolve_adapter

__all__ = ["SourceFile", "SourceListing", "resolve", "resolve_adapter"]
