// Answers questions with the unmodified Transformers.js in Node: ask.mjs NODE_MODULES EXPORT QUESTIONS.json
//
// Each question has an image file and a prefix. `exact` resizes as the page does, otherwise Transformers.js does.

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const [modules, folder, file] = process.argv.slice(2);
const load = (path) => import(pathToFileURL(path).href);
const { AutoProcessor, PaliGemmaForConditionalGeneration, RawImage, env } = await load(
  join(modules, "@huggingface/transformers/dist/transformers.node.mjs"),
);
// Node takes a file for a module by its name or its package; this one has neither.
const source = readFileSync(join(folder, "pixels.js"), "utf8");
const { resize } = await import(`data:text/javascript,${encodeURIComponent(source)}`);

env.allowRemoteModels = false;
env.allowLocalModels = true;
const settings = JSON.parse(readFileSync(join(folder, "page.json"), "utf8"));
const processor = await AutoProcessor.from_pretrained(folder);
const model = await PaliGemmaForConditionalGeneration.from_pretrained(folder);

const answers = [];
for (const { image, prefix, exact } of JSON.parse(readFileSync(file, "utf8"))) {
  let raw = (await RawImage.read(image)).rgb();
  if (exact) {
    const pixels = resize(raw, settings.side, settings.kernel);
    raw = new RawImage(pixels.data, pixels.width, pixels.height, 3);
  }
  const inputs = await processor(raw, `<image>${prefix}`);
  const tokens = await model.generate(inputs);
  const length = inputs.input_ids.dims.at(-1);
  answers.push({
    prompt: inputs.input_ids.tolist()[0].map(Number),
    tokens: tokens.tolist()[0].slice(length).map(Number),
  });
}
console.log(JSON.stringify(answers));
