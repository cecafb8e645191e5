"""A Vespa application package around an export: BM25 first, then the ranker over the best documents.

Written from Vespa's documentation (cross-encoders, onnx, embedding reference); no engine was started with it here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from disranker.export.manifest import ONNX_MODEL, Exported

RERANK_COUNT = 100
"""Documents of a query that the ranker scores."""


def write_vespa(exported: Exported, folder: Path) -> None:
    """Write services.xml, the schema `page`, the model and the tokenizer.

    Raises:
        ValueError: Vespa's functions cannot build the tokenizer's pairs.
    """
    _check_pairs(exported)
    (folder / "models").mkdir(parents=True)
    (folder / "schemas").mkdir()
    shutil.copyfile(exported.folder / ONNX_MODEL, folder / "models" / "model.onnx")
    shutil.copyfile(exported.folder / "tokenizer.json", folder / "models" / "tokenizer.json")
    (folder / "services.xml").write_text(_SERVICES, encoding="utf-8")
    (folder / "schemas" / "page.sd").write_text(_schema(exported), encoding="utf-8")
    (folder / "README.md").write_text(_readme(exported), encoding="utf-8")


def _check_pairs(exported: Exported) -> None:
    tokenizer = exported.encoder.tokenizer
    ids, cls, sep = list(exported.example["input_ids"]), tokenizer.cls_token_id, tokenizer.sep_token_id
    if ids[0] != cls or ids[-1] != sep or ids.count(sep) != 2:
        raise ValueError(
            "layout vespa: Vespa builds [CLS] query [SEP] document [SEP], and this tokenizer builds other pairs; "
            "take vespa out of layouts"
        )
    if 0 not in tokenizer.all_special_ids or tokenizer.unk_token_id == 0:
        raise ValueError(
            "layout vespa: Vespa takes token 0 for the end of a text, and this tokenizer uses it for words; "
            "take vespa out of layouts"
        )


def _schema(exported: Exported) -> str:
    tokenizer, length = exported.encoder.tokenizer, exported.encoder.max_tokens
    functions = {
        "input_ids": f"customTokenInputIds({tokenizer.cls_token_id}, {tokenizer.sep_token_id}, ",
        "attention_mask": "tokenAttentionMask(",
        "token_type_ids": "tokenTypeIds(",
    }
    inputs = "\n".join(f"            input {name}: {name}" for name in exported.input_names)
    bodies = "\n".join(
        f"""        function {name}() {{
            expression: {functions[name]}{length}, query(q_tokens), attribute(tokens))
        }}"""
        for name in exported.input_names
    )
    return f"""schema page {{

    document page {{
        field title type string {{
            indexing: index | summary
            index: enable-bm25
        }}
        # The summary of the document; `summary` is a word of this language.
        field body type string {{
            indexing: index | summary
            index: enable-bm25
        }}
    }}

    # Token ids of "title body", as the ranker reads them; 0 where there are none.
    field tokens type tensor<float>(d0[{length - 4}]) {{
        indexing: (input title || "") . " " . (input body || "") | embed tokenizer | attribute
    }}

    fieldset default {{
        fields: title, body
    }}

    rank-profile bm25 {{
        first-phase {{
            expression: bm25(title) + bm25(body)
        }}
    }}

    rank-profile disranker inherits bm25 {{
        inputs {{
            query(q_tokens) tensor<float>(d0[{(length - 3) // 2}])
        }}
        onnx-model disranker {{
            file: models/model.onnx
{inputs}
            output logits: logits
        }}
{bodies}
        global-phase {{
            rerank-count: {RERANK_COUNT}
            expression: onnx(disranker).logits{{d0:0,d1:0}}
        }}
    }}
}}
"""


_SERVICES = """<?xml version="1.0" encoding="utf-8" ?>
<services version="1.0">
  <container id="default" version="1.0">
    <!-- Without special tokens: the rank profile puts [CLS] and [SEP] where they belong. -->
    <component id="tokenizer" type="hugging-face-tokenizer">
      <model path="models/tokenizer.json"/>
      <special-tokens>false</special-tokens>
    </component>
    <document-api/>
    <search/>
  </container>
  <content id="pages" version="1.0">
    <min-redundancy>1</min-redundancy>
    <documents>
      <document type="page" mode="index"/>
    </documents>
    <nodes>
      <node distribution-key="0" hostalias="node1"/>
    </nodes>
  </content>
</services>
"""


def _readme(exported: Exported) -> str:
    length, example = exported.encoder.max_tokens, exported.example
    return f"""# Vespa application package

BM25 finds documents, and the rank profile `disranker` scores the best {RERANK_COUNT} of them with the ranker. Its
relevance is the raw score. To add the ranker to an application of your own, copy `models/`, the component of
`services.xml`, and the field `tokens` with the rank profile of `schemas/page.sd`.

    vespa config set target local
    vespa deploy --wait 300 .
    echo '{{"put": "id:pages:page::1", "fields": {{"title": "…", "body": "…"}}}}' | vespa feed -
    vespa query 'yql=select * from page where userQuery()' 'query=…' \\
        'input.query(q_tokens)=embed(tokenizer, @query)' 'ranking=disranker'

Prove it with a golden pair: feed the document below as `title`, with an empty `body`, and ask for the query; the
relevance must be {example["score"]:.6f}.

    query     {json.dumps(example["query"], ensure_ascii=False)}
    document  {json.dumps(example["document"], ensure_ascii=False)}

- The ranker reads {length} tokens. Of a longer pair Vespa's functions drop the last [SEP] along with the end of the
  document, so its score differs a little from the golden one; a query is cut at {(length - 3) // 2} tokens.
- The model runs on the CPU; `gpu-device: 0` inside `onnx-model` runs it on a GPU.
- The package was written from Vespa's documentation and checked as far as parsing and its token ids go; it has not been
  deployed by our tests.
"""
