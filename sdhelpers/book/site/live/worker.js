// Where the models live, so that the page itself never stands still. Takes load, draw and stop; posts what happens.

import { load } from "./models.js";
import { draw } from "./sampler.js";
import { Words } from "./words.js";

let ready = null;
let current = 0;

const pause = () => new Promise((resolve) => setTimeout(resolve)); // lets a "stop" be heard between two steps

const tasks = {
  async load({ about }) {
    const started = performance.now();
    const { threads, parts, tokenizer } = await load(about, (done, total) => postMessage({ kind: "loading", done, total }));
    ready = { parts, words: new Words(...tokenizer) };
    postMessage({ kind: "ready", threads, seconds: (performance.now() - started) / 1000 });
  },
  async draw({ settings }) {
    const mine = ++current;
    const started = performance.now();
    const seconds = () => (performance.now() - started) / 1000;
    const wanted = async () => (await pause(), mine === current);
    const tell = (kind, what) => postMessage({ kind, ...what, seconds: seconds() });
    const picture = await draw(settings, ready.words, ready.parts, tell, wanted);
    if (picture) postMessage({ kind: "picture", picture, seconds: seconds() });
    else postMessage({ kind: "stopped", seconds: seconds() });
  },
  stop() {
    current++;
  },
};

onmessage = async ({ data }) => {
  try {
    await tasks[data.task](data);
  } catch (error) {
    const memory = error instanceof RangeError || /memory|allocat/i.test(error.message);
    const sentence = memory ? "This browser has too little memory for the models: close other pages and load this one again." : error.message;
    postMessage({ kind: "failed", during: data.task, sentence });
  }
};
