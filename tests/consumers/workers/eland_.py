"""The model that eland uploads to Elasticsearch, made without a cluster, and the scores that libtorch gives with it.

    python eland_.py EXPORT OUT

Prints the configuration and the scores of the golden pairs, which transformers tokenizes as that configuration says.
"""

import importlib.metadata
import json
import sys
from pathlib import Path

import torch
from eland.ml.pytorch.transformers import TransformerModel
from transformers import BertTokenizer

folder, out = sys.argv[1:]
made = TransformerModel(model_id=folder, task_type="text_similarity", es_version=(9, 2, 0), quantize=False)
model_file, config, vocabulary_file = made.save(out)
content = config.to_dict()
tokenization = content["inference_config"]["text_similarity"]["tokenization"]["bert"]
vocabulary = json.loads(Path(vocabulary_file).read_text("utf-8"))["vocabulary"]
(Path(out) / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
tokenizer = BertTokenizer(str(Path(out) / "vocab.txt"), do_lower_case=tokenization["do_lower_case"])
model = torch.jit.load(model_file)
scores = []
for line in Path(folder, "golden.jsonl").read_text("utf-8").splitlines():
    pair = json.loads(line)
    inputs = tokenizer(
        pair["query"],
        pair["document"],
        truncation=f"only_{tokenization['truncate']}",
        max_length=tokenization["max_sequence_length"],
        return_tensors="pt",
    )
    ids = inputs["input_ids"]
    positions = torch.arange(ids.shape[1])[None]
    with torch.inference_mode():
        (logits,) = model(ids, inputs["attention_mask"], inputs["token_type_ids"], positions)
    scores.append(float(logits))
versions = {name: importlib.metadata.version(name) for name in ("eland", "torch", "transformers")}
print(json.dumps({"config": content, "scores": scores, "versions": versions}))
