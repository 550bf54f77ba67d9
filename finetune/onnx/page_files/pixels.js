// Images as the model was trained on them: upright, on white, and resized by Pillow's own arithmetic.
//
// A browser's canvas resizes without antialiasing, and no two browsers alike; a model notices. These loops
// return the same bytes as Pillow: weights in fixed point, and a rounding after each of two passes.
// Source: Pillow, src/libImaging/Resample.c; for `paper`, big_vision's resizing in TensorFlow.

const BITS = 22; // of Pillow's fixed point

const FILTERS = {
  bicubic: { support: 2, at: (x) => {
    x = Math.abs(x);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  } },
  bilinear: { support: 1, at: (x) => Math.max(0, 1 - Math.abs(x)) },
};

/** Decode a file into `{ data, width, height }`, RGB bytes row by row. */
export async function readImage(file, mostPixels) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", imageOrientation: "from-image" });
  const { width, height } = bitmap;
  if (width * height > mostPixels) {
    throw new Error(`it has ${width} x ${height} pixels, more than ${mostPixels.toLocaleString("en")}`);
  }
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  const { data: rgba } = context.getImageData(0, 0, width, height);
  const data = new Uint8ClampedArray(width * height * 3);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    data[to++] = rgba[from];
    data[to++] = rgba[from + 1];
    data[to++] = rgba[from + 2];
  }
  return { data, width, height };
}

/** Resize to a square of `side` pixels; the ratio of the sides is not kept. */
export function resize(image, side, kernel) {
  if (image.width === side && image.height === side) return image;
  if (kernel === "paper" || kernel === "paper_antialiased") return resizeAsPaper(image, side, kernel !== "paper");
  const filter = FILTERS[kernel];
  if (!filter) throw new Error(`unknown kernel ${kernel}`);
  let result = image;
  if (result.width !== side) result = passAcross(result, side, filter);
  if (result.height !== side) result = transpose(passAcross(transpose(result), side, filter));
  return result;
}

function passAcross({ data, width, height }, length, filter) {
  const scale = width / length;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const result = new Uint8ClampedArray(length * height * 3);
  for (let place = 0; place < length; place++) {
    const center = (place + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - support + 0.5));
    const end = Math.min(width, Math.trunc(center + support + 0.5));
    const weights = [];
    let total = 0;
    for (let x = start; x < end; x++) {
      const weight = filter.at((x - center + 0.5) * (1 / stretch));
      weights.push(weight);
      total += weight;
    }
    const fixed = weights.map((weight) => {
      const share = (total === 0 ? weight : weight / total) * 2 ** BITS;
      return Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    });
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 2 ** (BITS - 1);
        let from = (y * width + start) * 3 + channel;
        for (let tap = 0; tap < fixed.length; tap++, from += 3) sum += data[from] * fixed[tap];
        result[(y * length + place) * 3 + channel] = Math.floor(sum / 2 ** BITS);
      }
    }
  }
  return { data: result, width: length, height };
}

function transpose({ data, width, height }) {
  const result = new data.constructor(data.length);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      for (let channel = 0; channel < 3; channel++) {
        result[(x * height + y) * 3 + channel] = data[(y * width + x) * 3 + channel];
      }
    }
  }
  return { data: result, width: height, height: width };
}

// Every operation is rounded to 32 bits, in TensorFlow's order.
const f = Math.fround;

function resizeAsPaper(image, side, antialias) {
  const plain = { ...image, data: Float32Array.from(image.data) };
  const result = antialias
    ? antialiasAcross(transpose(antialiasAcross(transpose(plain), side)), side)
    : transpose(interpolateAcross(transpose(interpolateAcross(plain, side)), side));
  // Truncated, not rounded.
  return { ...result, data: Uint8ClampedArray.from(result.data, Math.floor) };
}

function interpolateAcross({ data, width, height }, length) {
  const scale = f(f(width) / f(length));
  const result = new Float32Array(length * height * 3);
  for (let place = 0; place < length; place++) {
    const at = f(f(f(place + 0.5) * scale) - 0.5);
    const floor = Math.floor(at);
    const share = f(at - floor);
    const left = Math.max(floor, 0);
    const right = Math.min(Math.ceil(at), width - 1);
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 3; channel++) {
        const first = data[(y * width + left) * 3 + channel];
        const second = data[(y * width + right) * 3 + channel];
        result[(y * length + place) * 3 + channel] = f(first + f(f(second - first) * share));
      }
    }
  }
  return { data: result, width: length, height };
}

function antialiasAcross({ data, width, height }, length) {
  const scale = f(1 / f(f(length) / f(width)));
  const radius = Math.max(scale, 1);
  const inverse = f(1 / radius);
  const result = new Float32Array(length * height * 3);
  for (let place = 0; place < length; place++) {
    const center = f(f(place + 0.5) * scale);
    const start = Math.min(Math.max(Math.ceil(f(f(center - radius) - 0.5)), 0), width - 1);
    const end = Math.min(Math.max(Math.floor(f(f(center + radius) - 0.5)), 0), width - 1);
    const weights = [];
    let total = 0;
    for (let x = start; x <= end; x++) {
      const distance = Math.abs(f(f(f(x + 0.5) - center) * inverse));
      weights.push(Math.max(f(1 - distance), 0));
      total = f(total + weights.at(-1));
    }
    const share = f(1 / total);
    for (let y = 0; y < height; y++) {
      for (let channel = 0; channel < 3; channel++) {
        let sum = 0;
        weights.forEach((weight, tap) => {
          sum = f(sum + f(data[(y * width + start + tap) * 3 + channel] * f(weight * share)));
        });
        result[(y * length + place) * 3 + channel] = sum;
      }
    }
  }
  return { data: result, width: length, height };
}
