"""A ranker behind HTTP: protocol, batching over requests, cascade, metrics."""
