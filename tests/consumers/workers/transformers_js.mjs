// transformers.js on Node, as anyone would call it; speaks as protocol.py says.
import { createRequire } from "node:module";
import { basename, dirname, resolve } from "node:path";
import { createInterface } from "node:readline";
import { AutoModelForSequenceClassification, AutoTokenizer, env } from "@huggingface/transformers";

const [folder, ...options] = process.argv.slice(2);
const option = (name, otherwise) => (options.includes(name) ? options[options.indexOf(name) + 1] : otherwise);
env.allowRemoteModels = false;
env.localModelPath = dirname(resolve(folder)) + "/";
const name = basename(resolve(folder));
const settings = { dtype: option("--backend", "fp32"), device: "cpu" };
settings.session_options = { intraOpNumThreads: Number(option("--threads", "1")) };
const tokenizer = await AutoTokenizer.from_pretrained(name);
const model = await AutoModelForSequenceClassification.from_pretrained(name, settings);

const version = createRequire(import.meta.url)("./node_modules/@huggingface/transformers/package.json").version;
console.log(JSON.stringify({ versions: { "@huggingface/transformers": version, node: process.versions.node } }));
for await (const line of createInterface({ input: process.stdin })) {
  const { query, documents } = JSON.parse(line);
  const began = performance.now();
  const queries = Array(documents.length).fill(query);
  const inputs = tokenizer(queries, { text_pair: documents, padding: true, truncation: true });
  const { logits } = await model(inputs);
  const scores = Array.from(logits.data, Number);
  console.log(JSON.stringify({ scores, seconds: (performance.now() - began) / 1000 }));
}
