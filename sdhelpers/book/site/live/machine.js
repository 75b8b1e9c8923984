// The machine in one drawing: each box shows its tensor as it is now. Knows canvases and numbers, nothing of workers.

import * as tensors from "./tensors.js";

const TOKENS = 77;

export class Machine {
  constructor(root, line) {
    this.root = root;
    this.line = line;
  }

  canvas(name) {
    return this.root.querySelector(`canvas[data-tensor="${name}"]`);
  }

  text(name, what) {
    this.root.querySelector(`[data-text="${name}"]`).textContent = what;
  }

  // The box where something happens now is marked.
  light(...names) {
    for (const box of this.root.querySelectorAll("[data-box]")) box.classList.toggle("now", names.includes(box.dataset.box));
  }

  tokens({ tokens }) {
    const list = this.root.querySelector("[data-text=tokens]");
    list.replaceChildren(...[{ id: 49406, text: "start" }, ...tokens, { id: 49407, text: "end" }].map(({ id, text }) => {
      const item = document.createElement("span");
      item.append(text, Object.assign(document.createElement("small"), { textContent: id }));
      return item;
    }));
    this.own = tokens.length;
    this.light("tokens");
  }

  vectors({ given }) {
    tensors.rows(this.canvas("vectors"), given, TOKENS, this.own, Math.max(1, Math.min(6, Math.floor(60 / (this.own + 1)))));
    this.text("vectors", `[1, 77, ${given.length / TOKENS}]`);
    this.light("vectors");
  }

  noise({ latents }) {
    tensors.channels(this.canvas("noise"), latents);
    tensors.channels(this.canvas("latents"), latents);
    this.light("noise");
  }

  step({ step, of, time, unguided, conditioned, guided, clean, latents }, guidance) {
    tensors.channels(this.canvas("latents"), latents);
    tensors.channels(this.canvas("unguided"), unguided);
    tensors.channels(this.canvas("conditioned"), conditioned);
    tensors.channels(this.canvas("difference"), conditioned.map((x, i) => x - unguided[i]), 0.5);
    tensors.channels(this.canvas("guided"), guided);
    tensors.channels(this.canvas("clean"), clean);
    tensors.preview(this.canvas("colours"), clean, this.line);
    this.text("step", `step ${step} of ${of}, t = ${time}`);
    this.text("guidance", guidance > 1 ? String(guidance) : "1 (off)");
    this.light("latents", "unet", "attention", "guidance", "clean");
  }

  picture({ picture }) {
    tensors.picture(this.canvas("picture"), picture);
    this.light("vae");
  }
}
