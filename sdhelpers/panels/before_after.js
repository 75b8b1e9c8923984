// The onload of a sheet of pictures: shows two of them, one over the other, and a slider that moves the line between.
// Where no script may run, nothing of this happens and the whole sheet is seen.
const sheet = this;
const { columns, gap, height, labels, row, scale, title, width } = JSON.parse(sheet.dataset.pair);
const make = (kind, style, properties) => {
  const element = Object.assign(document.createElement(kind), properties);
  element.style.cssText = style;
  return element;
};
const layer = (style) =>
  make("div", `position:absolute;inset:0;background-image:url(${sheet.src});background-size:${(100 * sheet.naturalWidth) / width}% auto;${style}`, {});
const box = make("div", `position:relative;width:${scale * width}px;max-width:100%;aspect-ratio:${width}/${height};cursor:ew-resize;touch-action:pan-y`, {});
const right = layer(""), left = layer("");
const line = make("div", "position:absolute;top:0;bottom:0;width:2px;margin-left:-1px;background:#fff;box-shadow:0 0 2px #000", {});
const bar = make("div", "display:flex;flex-wrap:wrap;gap:0.5em;align-items:center;margin:0.2em 0", {});
const slider = make("input", `width:${scale * width}px;max-width:100%;margin:0`, { type: "range", min: 0, max: 100, step: 1, value: 50 });
const choose = (which, chosen) => {
  const menu = make("select", "max-width:14em", {});
  menu.setAttribute("aria-label", `${title}: ${which}`);
  labels.forEach((label, i) => menu.append(new Option(label, i, false, i === chosen)));
  menu.onchange = () => show();
  return menu;
};
const first = choose("left", 0), second = choose("right", 1);

const place = (element, number) => {
  const x = gap + (number % columns) * (width + gap), y = gap + Math.floor(number / columns) * row;
  const across = sheet.naturalWidth - width, down = sheet.naturalHeight - height;
  element.style.backgroundPosition = `${across ? (100 * x) / across : 0}% ${down ? (100 * y) / down : 0}%`;
};
const show = () => {
  place(left, Number(first.value));
  place(right, Number(second.value));
  left.style.clipPath = `inset(0 ${100 - slider.value}% 0 0)`;
  line.style.left = `${slider.value}%`;
  slider.setAttribute("aria-valuetext", `${slider.value} % ${labels[first.value]}, the rest ${labels[second.value]}`);
};
const drag = (event) => {
  if (event.type === "pointermove" && !event.buttons) return;
  const { left: edge, width: wide } = box.getBoundingClientRect();
  slider.value = (100 * (event.clientX - edge)) / wide;
  show();
};
box.onpointerdown = drag;
box.onpointermove = drag;
slider.oninput = show;

sheet.onload = null;
slider.setAttribute("aria-label", title);
box.setAttribute("role", "img");
box.setAttribute("aria-label", sheet.alt);
bar.append(first, make("span", "", { textContent: "|" }), second);
box.append(right, left, line);
sheet.before(bar, box, slider);
sheet.style.display = "none";
show();
