// Reads [{tex, display}, ...] from standard input and prints [{engine, tex, error}, ...] for what cannot be drawn.
import { readFileSync } from "node:fs";
import katex from "katex";
import { mathjax } from "mathjax-full/js/mathjax.js";
import { TeX } from "mathjax-full/js/input/tex.js";
import { SVG } from "mathjax-full/js/output/svg.js";
import { liteAdaptor } from "mathjax-full/js/adaptors/liteAdaptor.js";
import { RegisterHTMLHandler } from "mathjax-full/js/handlers/html.js";

const adaptor = liteAdaptor();
RegisterHTMLHandler(adaptor);
const page = mathjax.document("", {
  InputJax: new TeX({ formatError: (jax, error) => { throw error; } }),
  OutputJax: new SVG({ fontCache: "none" }),
});

const engines = {
  KaTeX: (tex, display) => katex.renderToString(tex, { displayMode: display, throwOnError: true, strict: "error" }),
  MathJax: (tex, display) => adaptor.outerHTML(page.convert(tex, { display })),
};

const failures = [];
for (const { tex, display } of JSON.parse(readFileSync(0, "utf8"))) {
  for (const [engine, draw] of Object.entries(engines)) {
    try {
      draw(tex, display);
    } catch (error) {
      failures.push({ engine, tex, error: String(error.message) });
    }
  }
}
console.log(JSON.stringify(failures));
