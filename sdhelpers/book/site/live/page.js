// The page: form, buttons and what is said; the drawing itself goes on in worker.js.

import { isolate, reason } from "./able.js";
import { Attention } from "./attention.js";
import { Machine } from "./machine.js";
import * as settings from "./settings.js";
import * as tensors from "./tensors.js";

const at = (name) => document.getElementById(`live-${name}`);
const [form, note, status, bar, canvas] = ["form", "note", "status", "bar", "picture"].map(at);
const [drawButton, stopButton, saveButton] = ["draw", "stop", "save"].map(at);
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

const about = await (await fetch(new URL("models/models.json", import.meta.url))).json();
const machine = new Machine(at("machine"), about.preview);
const attention = new Attention(at("words"), at("shade"), at("maps"), (text) => (at("word-note").textContent = text));
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
let [loaded, current, wishes, broken] = [false, null, null, ""];

function say(sentence, field = null) {
  note.textContent = sentence;
  note.hidden = !sentence;
  for (const one of form.elements) one.removeAttribute("aria-invalid");
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
}

function busy(state) {
  [drawButton.disabled, stopButton.disabled] = [state, !state];
  bar.hidden = !state;
}

function progress(part, text) {
  bar.value = part;
  status.textContent = text;
}

function start() {
  current = wishes;
  attention.clear();
  saveButton.disabled = true;
  progress(0, "Reading the prompt");
  worker.postMessage({ task: "draw", settings: current });
}

// What the worker posts, by its kind.
const hear = {
  loading: ({ done, total }) => progress(done / total, `Loading ${megabytes(done)} of ${megabytes(total)}${done === total ? ", and getting ready" : ""}`),
  ready({ threads, seconds }) {
    loaded = true;
    drawButton.textContent = "Draw";
    at("loaded").textContent = `Models ready after ${seconds.toFixed(1)} s, on ${threads === 1 ? "one thread" : `${threads} threads`}.`;
    document.body.dataset.threads = threads;
    if (wishes) start();
    else { progress(0, "Stopped. The models are ready."); busy(false); }
  },
  tokens(told) {
    machine.tokens(told);
    attention.tokens(told);
    const cut = [["prompt", told.cut], ["negative prompt", told.negativeCut]].filter(([, text]) => text);
    say(cut.map(([name, text]) => `The ${name} is longer than 77 tokens: “${text}” is not read.`).join(" "));
  },
  vectors: (told) => machine.vectors(told),
  noise: (told) => machine.noise(told),
  step(told) {
    machine.step(told, current.guidance);
    attention.step(told);
    tensors.preview(canvas, told.clean, about.preview);
    progress(told.step / told.of, `Step ${told.step} of ${told.of} (${told.seconds.toFixed(1)} s)`);
  },
  picture(told) {
    machine.picture(told);
    tensors.picture(canvas, told.picture);
    canvas.setAttribute("aria-label", `Drawn in this page: ${current.prompt}`);
    status.textContent = `Drawn in ${told.seconds.toFixed(1)} s: seed ${current.seed}, guidance ${current.guidance}, ${current.steps} steps, ${current.scheduler}.`;
    document.body.dataset.seconds = told.seconds;
    saveButton.disabled = false;
    busy(false);
  },
  stopped() {
    status.textContent = "Stopped. What is seen is the guess of the last step.";
    machine.light();
    busy(false);
  },
  failed({ sentence }) {
    say(sentence);
    status.textContent = "";
    busy(false);
  },
};
worker.onmessage = ({ data }) => hear[data.kind](data);
worker.onerror = () => {
  broken = "The part of the page that draws could not start: load the page again, or try another browser.";
  hear.failed({ sentence: broken });
};

form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (broken) return say(broken);
  try {
    wishes = settings.read(form);
  } catch (error) {
    return say(error.message, error.field);
  }
  say("");
  settings.intoAddress(wishes);
  busy(true);
  if (loaded) return start();
  progress(0, "Loading");
  worker.postMessage({ task: "load", about });
});

stopButton.addEventListener("click", () => {
  wishes = null;
  stopButton.disabled = true;
  status.textContent = loaded ? "Stopping after this step" : "Stopping when the models are there";
  worker.postMessage({ task: "stop" });
});

saveButton.addEventListener("click", () => {
  const name = current.prompt.replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60) || "picture";
  Object.assign(document.createElement("a"), { href: canvas.toDataURL("image/png"), download: `${name}-${current.seed}.png` }).click();
});

at("dice").addEventListener("click", () => (form.elements.seed.value = Math.floor(Math.random() * 10000)));
for (const example of at("examples").querySelectorAll("button")) {
  example.addEventListener("click", () => (form.elements.prompt.value = example.textContent));
}

const unable = reason();
if (unable) say(unable);
else {
  await isolate(new URL("../../isolation.js", import.meta.url));
  settings.fromAddress(form);
  const largest = new URL("models/unet.onnx", import.meta.url).href;
  const here = await globalThis.caches?.match(largest, { cacheName: `pocket-${about.set}` }).catch(() => null);
  const size = Object.values(about.files).reduce((a, b) => a + b) + about.runtime;
  at("loaded").textContent = here ? "This browser has kept the models." : `The first picture loads ${megabytes(size)}; later ones nothing.`;
  drawButton.textContent = here ? "Draw" : `Load ${megabytes(size)} and draw`;
  drawButton.disabled = false;
}
document.body.dataset.live = unable ? "unable" : "able";
