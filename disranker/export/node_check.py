"""The text of `check.mjs`, the checker of an export for Node; nothing here runs it."""

NODE_CHECK = r"""// Proves an integration in Node: golden pairs must give the token ids and the score of the ranker.
//
//     npm install @huggingface/transformers
//     node check.mjs [tolerance, by default 1e-4]
//
// Read it for how a pair becomes a score. Exit code 0: all is equal; 1: something differs, and what.
import { readFileSync } from "node:fs";
import { basename, dirname } from "node:path";
import { fileURLToPath } from "node:url";
import { AutoModelForSequenceClassification, AutoTokenizer, env, Tensor } from "@huggingface/transformers";

const folder = dirname(fileURLToPath(import.meta.url));
const tolerance = Number(process.argv[2] ?? 1e-4);
const manifest = JSON.parse(readFileSync(`${folder}/export.json`, "utf8"));
const lines = readFileSync(`${folder}/golden.jsonl`, "utf8").trimEnd().split("\n");
const golden = lines.map((line) => JSON.parse(line));

env.allowRemoteModels = false;
env.localModelPath = `${dirname(folder)}/`;
const tokenizer = await AutoTokenizer.from_pretrained(basename(folder));
const model = await AutoModelForSequenceClassification.from_pretrained(basename(folder), { dtype: "fp32" });

// The library's own `truncation` cuts the end of the sequence and loses the last [SEP]; training cut the longer text.
function encode(query, document, maxTokens) {
  const ids = (text) => tokenizer.encode(text, { add_special_tokens: false }).length;
  const whole = tokenizer(query, { text_pair: document, return_tensor: false });
  const [numQuery, numDocument] = [ids(query), ids(document)];
  const special = whole.input_ids.length - numQuery - numDocument;
  const [keptQuery, keptDocument] = longestFirst(numQuery, numDocument, maxTokens - special);
  // One special token stands before the query and one after the document; the others stand between the two.
  const between = 1 + numQuery + special - 2;
  const cut = (row) => [
    ...row.slice(0, 1 + keptQuery),
    ...row.slice(1 + numQuery, between + keptDocument),
    ...row.slice(between + numDocument),
  ];
  return Object.fromEntries(Object.entries(whole).map(([name, row]) => [name, cut(row)]));
}

// How many tokens of each text are kept: the longer one is cut, and both to halves where both are long.
function longestFirst(numQuery, numDocument, room) {
  if (numQuery + numDocument <= room) return [numQuery, numDocument];
  const [short, long] = [Math.min(numQuery, numDocument), Math.max(numQuery, numDocument)];
  let kept = [short, room - short];
  if (room - short < short) kept = [Math.floor(room / 2), Math.ceil(room / 2)];
  return numQuery <= numDocument ? kept : kept.reverse();
}

let differences = 0;
function report(number, name, found, expected) {
  differences += 1;
  console.error(`pair ${number}: ${name} ${found}, and should be ${expected}`);
}

for (const [index, pair] of golden.entries()) {
  const encoded = encode(pair.query, pair.document, manifest.max_tokens);
  const inputs = {};
  for (const { name } of manifest.inputs) {
    if (pair[name] && `${pair[name]}` !== `${encoded[name]}`) report(index + 1, name, encoded[name], pair[name]);
    const row = BigInt64Array.from(encoded[name], BigInt);
    inputs[name] = new Tensor("int64", row, [1, row.length]);
  }
  const score = (await model(inputs)).logits.data[0];
  if (!(Math.abs(score - pair.score) <= tolerance)) report(index + 1, "score", score, pair.score);
}
console.log(differences ? `${differences} differences` : "all golden pairs give their ids and their score");
process.exitCode = differences ? 1 : 0;
"""
