// Parts of a picture: boxes drawn over it, a box that a person drags, and the parts' scores as a heat map. A box is [x, y, width,
// height] in shares of the picture.

const SVG = document.getElementById('details-parts').namespaceURI;
const LEAST = 0.02; // share of the picture's side: a smaller drag is a click
const STEP = 0.05; // of an arrow key

function rectangle(box, name) {
  const [x, y, width, height] = box;
  const rect = document.createElementNS(SVG, 'rect');
  for (const [key, value] of Object.entries({ x: 100 * x, y: 100 * y, width: 100 * width, height: 100 * height, class: name })) rect.setAttribute(key, value);
  return rect;
}

/** An SVG that lies over `image` as `object-fit: contain` shows it, with a box. */
export function boxOver(image, box) {
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'box');
  const inner = document.createElementNS(SVG, 'svg'); // stretched to the picture's shape
  inner.setAttribute('viewBox', '0 0 100 100');
  inner.setAttribute('preserveAspectRatio', 'none');
  inner.append(rectangle(box, 'part'));
  svg.append(inner);
  const fit = () => {
    svg.setAttribute('viewBox', `0 0 ${image.naturalWidth} ${image.naturalHeight}`);
    inner.setAttribute('width', image.naturalWidth);
    inner.setAttribute('height', image.naturalHeight);
  };
  if (image.complete) fit();
  else image.addEventListener('load', fit);
  return svg;
}

export class Parts {
  /** `svg` lies over the large picture, with viewBox 0 0 100 100; `onBox(box)` hears of the box, null where it was taken away. */
  constructor(svg, onBox) {
    this.svg = svg;
    this.onBox = onBox;
    this.box = null;
    let from = null;
    const at = (event) => {
      const { left, top, width, height } = svg.getBoundingClientRect();
      return [(event.clientX - left) / width, (event.clientY - top) / height].map((share) => Math.min(1, Math.max(0, share)));
    };
    svg.addEventListener('pointerdown', (event) => {
      from = at(event);
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener('pointermove', (event) => {
      if (from) this.#set(between(from, at(event)));
    });
    svg.addEventListener('pointerup', (event) => {
      if (!from) return;
      const box = between(from, at(event));
      from = null;
      this.#set(box[2] < LEAST || box[3] < LEAST ? null : box);
    });
    svg.addEventListener('keydown', (event) => this.#pressed(event));
  }

  /** Another picture, with the box that a search found, if it did. */
  show(found) {
    this.found = found;
    this.heat = [];
    this.#set(null);
  }

  /** The parts' scores: [[box, share 0 to 1], ...]; the darker, the higher. */
  showHeat(scored) {
    this.heat = scored;
    this.#draw();
  }

  #set(box) {
    this.box = box;
    this.#draw();
    this.onBox(box);
  }

  #draw() {
    const heat = this.heat.map(([box, share]) => {
      const rect = rectangle(box, 'heat');
      rect.setAttribute('fill-opacity', (0.5 * share ** 3).toFixed(3));
      return rect;
    });
    this.svg.replaceChildren(
      ...heat, ...(this.found ? [rectangle(this.found, 'part')] : []), ...(this.box ? [rectangle(this.box, 'dragged')] : []),
    );
  }

  /** Arrows move the box, plus and minus change its size, Escape takes it away; the first key begins with the middle. */
  #pressed(event) {
    const moves = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, -STEP], ArrowDown: [0, STEP] };
    const grows = { '+': 1.25, '-': 0.8 };
    if (event.key === 'Escape' && this.box) {
      event.preventDefault();
      this.#set(null);
      return;
    }
    if (!(event.key in moves) && !(event.key in grows)) return;
    event.preventDefault();
    const [x, y, width, height] = this.box ?? [0.25, 0.25, 0.5, 0.5];
    const [right, down] = this.box && moves[event.key] ? moves[event.key] : [0, 0];
    const [w, h] = [width, height].map((side) => Math.min(1, Math.max(LEAST, side * (grows[event.key] ?? 1))));
    const place = (start, side, length, step) => Math.min(1 - length, Math.max(0, start + (side - length) / 2 + step));
    this.#set([place(x, width, w, right), place(y, height, h, down), w, h]);
  }
}

function between([a, b], [c, d]) {
  return [Math.min(a, c), Math.min(b, d), Math.abs(a - c), Math.abs(b - d)];
}

/** The part of a picture, an image element's, as a file to search by. */
export async function cut(image, [x, y, width, height], name) {
  const whole = await createImageBitmap(image);
  const sides = [width * whole.width, height * whole.height].map((side) => Math.max(1, Math.round(side)));
  const canvas = new OffscreenCanvas(...sides);
  canvas.getContext('2d').drawImage(whole, x * whole.width, y * whole.height, ...sides, 0, 0, ...sides);
  return new File([await canvas.convertToBlob({ type: 'image/png' })], name);
}
