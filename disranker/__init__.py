"""disranker: from click logs and a few judgments to a small BERT ranker that keeps a large language model's judgment."""

__version__ = "0.1.0"
