// Where the picture looks when it reads a word: maps of all steps added up, and the words to click (chapter 5).

import { heat, spotlight } from "./tensors.js";

const PLACES = 16 * 16;

export class Attention {
  constructor(list, shade, maps, tell) {
    Object.assign(this, { list, shade, maps, tell, chosen: null });
    this.clear();
  }

  clear() {
    this.sum = null;
    this.words = [];
    this.choose(null);
    this.list.replaceChildren();
    this.maps.replaceChildren();
  }

  tokens({ words }) {
    this.words = words;
    this.list.replaceChildren(...words.map((word, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: word.text, disabled: true });
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => this.choose(this.chosen === i ? null : i));
      return button;
    }));
    this.maps.replaceChildren(...words.map((word) => {
      const one = document.createElement("span");
      const canvas = Object.assign(document.createElement("canvas"), { width: 16, height: 16 });
      canvas.setAttribute("role", "img");
      canvas.setAttribute("aria-label", `Where “${word.text}” is read`);
      one.append(canvas, word.text);
      return one;
    }));
  }

  step({ attention }) {
    this.sum = this.sum ? this.sum.map((x, i) => x + attention[i]) : attention;
    for (const button of this.list.children) button.disabled = false;
    [...this.maps.children].forEach((one, i) => heat(one.firstChild, this.map(i)));
    if (this.chosen !== null) this.choose(this.chosen);
  }

  // The map of a word [16, 16]: that of its tokens together.
  map(word) {
    const { places } = this.words[word];
    return Float32Array.from({ length: PLACES }, (_, i) => places.reduce((sum, p) => sum + this.sum[p * PLACES + i], 0));
  }

  choose(word) {
    this.chosen = word;
    [...this.list.children].forEach((button, i) => button.setAttribute("aria-pressed", String(i === word)));
    this.shade.hidden = word === null;
    if (word === null) return this.tell("");
    spotlight(this.shade, this.map(word));
    this.tell(`Lit is where the UNet reads “${this.words[word].text}”, over all steps so far.`);
  }
}
