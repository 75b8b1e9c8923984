// Tensors as pictures: each function draws one kind of tensor on a canvas, a pixel a number.

const SIDE = 16;

// Below zero blue, above it orange, zero nearly white; `most` is where the colour is full.
function signed(value, most) {
  const part = Math.max(-1, Math.min(1, value / most));
  const [r, g, b] = part < 0 ? [33, 102, 172] : [214, 96, 20];
  const [strength, ground] = [Math.abs(part) ** 0.8, 246];
  return [r, g, b].map((full) => ground + (full - ground) * strength);
}

function paint(canvas, width, height, colour) {
  [canvas.width, canvas.height] = [width, height];
  const image = new ImageData(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) image.data.set(colour(x, y), (y * width + x) * 4);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

// Four channels of 16 x 16 side by side, in a square.
export function channels(canvas, data, most = 2.5) {
  const wide = 2 * SIDE + 1;
  paint(canvas, wide, wide, (x, y) => {
    if (x === SIDE || y === SIDE) return [0, 0, 0, 0];
    const [right, below] = [x > SIDE, y > SIDE];
    const place = (y - (below ? SIDE + 1 : 0)) * SIDE + x - (right ? SIDE + 1 : 0);
    return [...signed(data[(2 * below + right) * SIDE * SIDE + place], most), 255];
  });
}

// A row for each token, its numbers from left to right; the rows of the prompt's own words are drawn taller.
export function rows(canvas, data, count, own, tall = 6) {
  const width = data.length / count;
  const spread = Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length);
  const row = [];
  for (let i = 0; i < count; i++) row.push(...Array(i <= own ? tall : 1).fill(i));
  paint(canvas, width, row.length, (x, y) => [...signed(data[row[y] * width + x], 2 * spread), 255]);
}

// A picture [3, 128, 128] from 0 to 1.
export function picture(canvas, data) {
  const plane = data.length / 3;
  const side = Math.sqrt(plane);
  const at = (channel, x, y) => Math.round(255 * data[channel * plane + y * side + x]);
  paint(canvas, side, side, (x, y) => [at(0, x, y), at(1, x, y), at(2, x, y), 255]);
}

// What latents will look like, by a straight line from their four numbers to a colour (chapter 20).
export function preview(canvas, latents, line) {
  const mean = latents.reduce((a, b) => a + b) / latents.length;
  const spread = Math.sqrt(latents.reduce((sum, x) => sum + (x - mean) ** 2, 0) / latents.length);
  const scale = Math.max(1, spread);
  paint(canvas, SIDE, SIDE, (x, y) => {
    const four = [0, 1, 2, 3].map((channel) => latents[channel * SIDE * SIDE + y * SIDE + x] / scale);
    const colour = [0, 1, 2].map((c) => four.reduce((sum, value, i) => sum + value * line[i][c], line[4][c]));
    return [...colour.map((value) => 255 * Math.max(0, Math.min(1, value / 2 + 0.5))), 255];
  });
}

// A map [16, 16] by itself, from dark to light.
export function heat(canvas, map) {
  const [low, high] = [Math.min(...map), Math.max(...map)];
  paint(canvas, SIDE, SIDE, (x, y) => {
    const part = (map[y * SIDE + x] - low) / (high - low || 1);
    return [40 + 215 * part, 20 + 205 * part ** 1.6, 70 + 80 * part ** 4, 255];
  });
}

// A shade over the picture, lifted where a map [16, 16] is high.
export function spotlight(canvas, map) {
  const [low, high] = [Math.min(...map), Math.max(...map)];
  const lit = (x, y) => (map[y * SIDE + x] - low) / (high - low || 1);
  paint(canvas, SIDE, SIDE, (x, y) => [10, 8, 40, 225 * (1 - lit(x, y)) ** 1.3]);
}
