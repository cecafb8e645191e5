"""Export: the ranker as other software loads it, and the proof that it scores the same there."""
