// The page: an image and a prompt in, the answer of the exported model out.

import { chooseColors, drawObjects, readObjects } from "./objects.js";
import { readImage, resize } from "./pixels.js";

// Longer side of the drawn image, pixels: a small one is enlarged, so that boxes and labels are sharp.
const LEAST_SIDE = 640;
const MOST_SIDE = 1400;

const find = (id) => document.getElementById(id);
const settings = await (await fetch("page.json")).json();

const worker = new Worker("model.js", { type: "module" });
const waiting = new Map();
let calls = 0;

worker.onmessage = ({ data }) => {
  if (data.progress) return showProgress(data.progress);
  const { resolve, reject } = waiting.get(data.number);
  waiting.delete(data.number);
  if (data.error === undefined) resolve(data.result);
  else reject(new Error(data.error));
};
worker.onerror = (event) => showError(`The model cannot run here: ${event.message ?? "the worker did not start"}`);

function call(name, values, transfer = []) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ number: calls, name, values }, transfer);
  });
}

let file = null;
let picture = null; // as it is shown, without boxes
let ready = false;
let busy = false;

function showError(text) {
  find("error").textContent = text;
  find("error").hidden = text === "";
}

function showStatus(text) {
  find("status").textContent = text;
}

function showProgress({ loaded, total }) {
  const megabytes = (bytes) => (bytes / 1e6).toFixed(bytes < 1e8 ? 1 : 0);
  showStatus(`Loading the model: ${megabytes(loaded)} of ${megabytes(total)} MB`);
  find("bar").value = total ? loaded / total : 0;
}

function update() {
  find("ask").disabled = !ready || busy || file === null;
}

async function choose(chosen) {
  showError("");
  find("result").hidden = true;
  try {
    const bitmap = await createImageBitmap(chosen, { imageOrientation: "from-image" });
    const longer = Math.max(bitmap.width, bitmap.height);
    const scale = Math.min(Math.max(longer, LEAST_SIDE), MOST_SIDE) / longer;
    picture = new OffscreenCanvas(
      Math.max(1, Math.round(bitmap.width * scale)), Math.max(1, Math.round(bitmap.height * scale)),
    );
    const context = picture.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, picture.width, picture.height);
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, picture.width, picture.height);
    show([]);
    file = chosen;
  } catch (error) {
    file = picture = null;
    find("canvas").hidden = true;
    find("hint").hidden = false;
    showError(`${chosen.name || "This"} is not an image that this browser can read (${error.message}).`);
  }
  update();
}

function show(objects) {
  const canvas = find("canvas");
  canvas.width = picture.width;
  canvas.height = picture.height;
  canvas.getContext("2d").drawImage(picture, 0, 0);
  drawObjects(canvas, objects);
  canvas.hidden = false;
  find("hint").hidden = true;
}

async function ask(event) {
  event.preventDefault();
  if (find("ask").disabled) return;
  busy = true;
  update();
  showError("");
  showStatus("Answering ...");
  const asked = picture;
  try {
    const started = performance.now();
    const pixels = resize(await readImage(file, settings.most_pixels), settings.side, settings.kernel);
    const prefix = find("prompt").value;
    const answer = await call("answer", { pixels, prefix }, [pixels.data.buffer]);
    const seconds = (performance.now() - started) / 1000;
    showStatus("");
    if (asked === picture) showAnswer(answer, seconds);
  } catch (error) {
    showStatus("");
    showError(`No answer: ${error.message}`);
  }
  busy = false;
  update();
}

function showAnswer({ text, tokens, finished }, seconds) {
  const objects = readObjects(text, picture.width, picture.height, settings.divisor);
  show(objects);
  const colors = chooseColors(objects);
  find("objects").replaceChildren(...objects.map(({ label, box }) => {
    const item = document.createElement("li");
    item.style.setProperty("--color", colors.get(label));
    const name = document.createElement("b");
    name.textContent = label || "object";
    const place = document.createElement("span");
    const shares = [box[0] / picture.width, box[1] / picture.height, box[2] / picture.width, box[3] / picture.height];
    place.textContent = shares.map((share) => `${(100 * share).toFixed(1)} %`).join(", ");
    item.append(name, " ", place);
    return item;
  }));
  find("places").hidden = objects.length === 0;
  find("answer").textContent = text;
  find("answer").classList.toggle("raw", objects.length > 0);
  find("empty").hidden = text !== "";
  find("masks").hidden = !objects.some(({ hasMask }) => hasMask);
  const cut = finished ? "" : "; cut at the most tokens that were exported";
  find("time").textContent = `${seconds.toFixed(seconds < 10 ? 2 : 1)} seconds, ${tokens.length} tokens${cut}`;
  find("result").hidden = false;
}

find("title").textContent = settings.title;
document.title = settings.title;
find("about").textContent = settings.about;
find("prompt").value = settings.prompts[0] ?? "";
find("prompts").replaceChildren(...settings.prompts.map((prompt) => {
  const choice = document.createElement("button");
  choice.type = "button";
  choice.textContent = prompt;
  choice.addEventListener("click", () => { find("prompt").value = prompt; });
  const item = document.createElement("li");
  item.append(choice);
  return item;
}));
find("more").hidden = settings.prompts.length < 2;
find("file").addEventListener("change", ({ target }) => target.files[0] && choose(target.files[0]));
find("form").addEventListener("submit", ask);
find("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) ask(event);
});
const drop = find("drop");
for (const name of ["dragover", "drop", "dragleave"]) {
  drop.addEventListener(name, (event) => {
    event.preventDefault();
    drop.classList.toggle("over", name === "dragover");
    if (name === "drop" && event.dataTransfer.files[0]) choose(event.dataTransfer.files[0]);
  });
}
document.addEventListener("paste", ({ clipboardData }) => {
  if (clipboardData?.files[0]) choose(clipboardData.files[0]);
});

showStatus("Loading the model ...");
try {
  const started = performance.now();
  await call("load");
  ready = true;
  showStatus("");
  find("loaded").textContent = `The model was loaded in ${((performance.now() - started) / 1000).toFixed(1)} seconds.`;
} catch (error) {
  showStatus("");
  showError(`The model cannot be loaded: ${error.message}`);
}
find("bar").hidden = true;
document.body.dataset.ready = String(ready);
update();
