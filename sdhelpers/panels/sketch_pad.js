// A square to draw on with a mouse, a pen or a finger: white lines on black. Each finished line goes to Python.
function render({ model, el }) {
  const canvas = document.createElement("canvas");
  const pixels = model.get("size");
  const context = canvas.getContext("2d");
  canvas.className = "sdhelpers-sketch-pad";
  canvas.width = canvas.height = pixels;
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", "Draw here with the mouse");
  let line = null; // the one that is being drawn: {pen, points}, points from 0 to 1

  const draw = ({ pen, points }) => {
    context.lineWidth = pen;
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "white";
    context.beginPath();
    points.forEach(([x, y]) => context.lineTo(x * pixels, y * pixels));
    if (points.length === 1) context.lineTo(points[0][0] * pixels + 0.01, points[0][1] * pixels);
    context.stroke();
  };
  const redraw = () => {
    context.fillStyle = "black";
    context.fillRect(0, 0, pixels, pixels);
    model.get("lines").forEach(draw);
    if (line) draw(line);
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const inside = (value) => Math.round(1000 * Math.min(1, Math.max(0, value))) / 1000;
    return [inside((event.clientX - box.left) / box.width), inside((event.clientY - box.top) / box.height)];
  };
  canvas.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    line = { pen: model.get("pen"), points: [place(event)] };
    redraw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!line) return;
    line.points.push(place(event));
    redraw();
  });
  const finish = () => {
    if (!line) return;
    model.set("lines", [...model.get("lines"), line]);
    line = null;
    model.save_changes();
  };
  canvas.addEventListener("pointerup", finish);
  canvas.addEventListener("pointercancel", finish);
  model.on("change:lines", redraw);
  redraw();
  el.append(canvas);
}

export default { render };
