// A prompt as CLIP's tokenizer reads it: 77 numbers, and which of them belong to which word.

import { Tokenizer } from "./packages/tokenizers.min.mjs";

const LENGTH = 77;
const [START, END] = ["<|startoftext|>", "<|endoftext|>"];

export class Words {
  constructor(file, config) {
    this.tokenizer = new Tokenizer(file, config);
  }

  // `ids` are as the text encoder takes them, `words` the prompt's own with the places of their tokens, `tokens` all that
  // was read, `cut` what was too long to be read.
  read(prompt) {
    const found = prompt.trim() ? this.tokenizer.encode(prompt, { add_special_tokens: false }) : { ids: [], tokens: [] };
    const [start, end] = [START, END].map((token) => this.tokenizer.token_to_id(token));
    const room = LENGTH - 2;
    const ids = Int32Array.from({ length: LENGTH }, () => end);
    ids.set([start, ...found.ids.slice(0, room)]);
    const tokens = found.tokens.slice(0, room).map((text, i) => ({ id: found.ids[i], text: plain(text) }));
    const over = found.ids.slice(room);
    return { ids, tokens, words: gather(found, room), cut: over.length ? this.tokenizer.decode(over).trim() : "" };
  }
}

const plain = (token) => token.replace("</w>", "");

// Tokens of one word belong together: the last of them carries the mark of a word's end.
function gather(found, room) {
  const words = [];
  let open = null;
  found.tokens.slice(0, room).forEach((token, i) => {
    open ??= { text: "", places: [] };
    open.text += plain(token);
    open.places.push(i + 1);
    if (!token.endsWith("</w>")) return;
    words.push(open);
    open = null;
  });
  return open ? [...words, open] : words;
}
