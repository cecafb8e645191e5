"""Models: packed attention, the ranker with its score head, bundles on disk, and the scorer."""
