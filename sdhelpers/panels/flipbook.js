// The onload of a flipbook's sheet: shows one page of it at a time, with a slider and a play button above.
// A player's sheet is told a speed in pages a second, too, and gets a slider for it and a box for playing over and over.
// Where no script may run, nothing of this happens and the whole sheet is seen.
const sheet = this;
const { columns, count, fastest, gap, height, interval, labels, speed, title, width } = JSON.parse(sheet.dataset.book);
const make = (kind, style, properties) => {
  const element = Object.assign(document.createElement(kind), properties);
  element.style.cssText = style;
  return element;
};
const page = make("div", `position:relative;overflow:hidden;width:${width}px;max-width:100%;aspect-ratio:${width}/${height}`, {});
const bar = make("div", "display:flex;gap:0.5em;align-items:center;margin:0.2em 0", {});
const play = make("button", "width:2.6em", { type: "button", title: "play" });
const slider = make("input", "width:16em;max-width:60%", { type: "range", min: 0, max: count - 1, step: 1, value: 0 });
const name = make("span", "", { textContent: title });
const marked = (element, text) => {
  const mark = make("label", "display:flex;gap:0.3em;align-items:center;white-space:nowrap", {});
  mark.append(element, make("span", "", { textContent: text }));
  return mark;
};
const loop = make("input", "margin:0", { type: "checkbox", checked: true });
const pace = make("input", "width:6em", { type: "range", min: 1, max: fastest, step: 1, value: speed });
const repeats = marked(loop, "loop"), rate = marked(pace, "");
let timer = null;

const turn = () => {
  const number = Number(slider.value);
  const left = gap + (number % columns) * (width + gap);
  const top = gap + Math.floor(number / columns) * (height + gap);
  sheet.style.left = `${(-100 * left) / width}%`;
  sheet.style.top = `${(-100 * top) / height}%`;
  slider.setAttribute("aria-valuetext", labels[number]);
};
const stop = () => {
  clearInterval(timer);
  timer = null;
  play.textContent = "▶";
};
const again = () => speed && loop.checked;
const next = () => {
  const number = Number(slider.value) + 1;
  slider.value = number === count && again() ? 0 : number;
  turn();
  if ((number >= count - 1 && !again()) || !sheet.isConnected) stop();
};
const start = () => {
  play.textContent = "⏸";
  timer = setInterval(next, speed ? 1000 / Number(pace.value) : interval);
};
play.onclick = () => {
  if (timer) return stop();
  if (Number(slider.value) === count - 1) slider.value = 0;
  turn();
  start();
};
pace.oninput = () => {
  rate.lastChild.textContent = `${pace.value} a second`;
  if (!timer) return;
  clearInterval(timer);
  start();
};
slider.oninput = () => {
  stop();
  turn();
};

sheet.onload = null;
slider.setAttribute("aria-label", title);
sheet.style.cssText = `position:absolute;max-width:none;width:${(100 * sheet.naturalWidth) / width}%`;
sheet.before(bar, page);
page.append(sheet);
bar.append(play, slider, name);
if (speed) {
  pace.setAttribute("aria-label", "frames a second");
  bar.style.flexWrap = "wrap";
  bar.append(repeats, rate);
  pace.oninput();
}
stop();
turn();
