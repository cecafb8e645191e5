"""Teacher: scoring runs over millions of pairs and the append-only store of their scores."""
