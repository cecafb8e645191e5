"""disranker: from click logs and a few judgments to a small BERT ranker that keeps an LLM's judgment."""

__version__ = "0.1.0"
