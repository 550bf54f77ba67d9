// PaliGemma's text of boxes: `<locYMIN><locXMIN><locYMAX><locXMAX> label ; ...`, 1,024 bins, y before x.

const OBJECT = /((?:<loc\d{4}>\s*){4})((?:<seg\d{3}>\s*)*)([^;\n<]*)/g;

/** Return the objects of an answer: `{ label, box: [x0, y0, x1, y1], hasMask }`, pixels. */
export function readObjects(text, width, height, divisor) {
  return [...text.matchAll(OBJECT)].map(([, locations, masks, label]) => {
    const bins = [...locations.matchAll(/\d{4}/g)].map(([bin]) => Math.min(Number(bin) / divisor, 1));
    const [y0, x0, y1, x1] = bins;
    return {
      label: label.trim(),
      box: [Math.min(x0, x1) * width, Math.min(y0, y1) * height, Math.max(x0, x1) * width, Math.max(y0, y1) * height],
      hasMask: masks.trim() !== "",
    };
  });
}

// Told apart also by people who do not see red and green as different.
const COLORS = ["#e8590c", "#1971c2", "#2b8a3e", "#c2255c", "#6741d9", "#087f5b", "#5c3d00", "#495057"];

/** Return a color for each label, in the order in which they appear. */
export function chooseColors(objects) {
  const labels = [...new Set(objects.map(({ label }) => label))];
  return new Map(labels.map((label, index) => [label, COLORS[index % COLORS.length]]));
}

/** Draw boxes with their labels over an image that the canvas has already. */
export function drawObjects(canvas, objects) {
  const context = canvas.getContext("2d");
  const colors = chooseColors(objects);
  const unit = Math.max(canvas.width, canvas.height) / 400;
  context.lineWidth = 2 * unit;
  context.font = `600 ${13 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  for (const { label, box: [x0, y0, x1, y1] } of objects) {
    context.strokeStyle = context.fillStyle = colors.get(label);
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    if (label === "") continue;
    const wide = context.measureText(label).width + 8 * unit;
    const high = 18 * unit;
    const left = Math.max(0, Math.min(x0 - unit, canvas.width - wide));
    const top = y0 >= high ? y0 - high : Math.min(y0, canvas.height - high);
    context.fillRect(left, top, wide, high);
    context.fillStyle = "#fff";
    context.fillText(label, left + 4 * unit, top + 3 * unit);
  }
}
