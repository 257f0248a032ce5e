// The map: every picture a point, pan and zoom, colours, thumbnails where there is room, a lasso.

import { Points } from './points.js';
import { load } from './thumbnails.js';

const PALETTE = ['#4e79a7', '#f28e2b', '#59a14f', '#e15759', '#b07aa1', '#9c755f', '#76b7b2', '#edc948', '#ff9da7', '#3b6e4f'];
const OTHERS = '#8a8f98'; // more values than colours, and none
const [LOW, HIGH] = ['#35508f', '#f6b53c']; // of numbers
const THUMB = 64; // pixels of a thumbnail; style.css has it, too
const CROWDED = 300; // points in sight, from which on they are shown as points alone
const NEAR = 10; // pixels from a point that a click opens it from
const STILL = 150; // milliseconds without movement until thumbnails come
const STEP = 60; // pixels that a key moves by
const ZOOM = 1.25; // by a key or button

const $ = (id) => document.getElementById(id);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));

export class PictureMap {
  /** `onLasso(polygon)` with [[x, y], ...] of the map; `onOpen(row)`. */
  constructor({ onLasso, onOpen }) {
    this.rows = [];
    this.onLasso = onLasso;
    this.onOpen = onOpen;
    this.view = { x: 0, y: 0, zoom: 1 };
    this.plane = $('map-plane');
    this.fingers = new Map(); // where each that is down is
    this.plane.addEventListener('pointerdown', (event) => {
      this.fingers.set(event.pointerId, [event.offsetX, event.offsetY]);
      if (this.fingers.size === 1) this.#dragged(event);
    });
    this.plane.addEventListener('pointermove', (event) => this.#pinched(event));
    for (const end of ['pointerup', 'pointercancel']) this.plane.addEventListener(end, (event) => this.fingers.delete(event.pointerId));
    this.plane.addEventListener('wheel', (event) => {
      event.preventDefault();
      this.#zoom(Math.exp(-event.deltaY / 400), event.offsetX, event.offsetY);
    }, { passive: false });
    this.plane.addEventListener('keydown', (event) => this.#pressed(event));
    $('map-in').addEventListener('click', () => this.#zoom(ZOOM));
    $('map-out').addEventListener('click', () => this.#zoom(1 / ZOOM));
    $('map-fit').addEventListener('click', () => this.#fit());
    $('map-sight').addEventListener('click', () => {
      const [width, height] = this.#size();
      this.onLasso([[0, 0], [width, 0], [width, height], [0, height]].map((at) => this.#toMap(at)));
    });
    new ResizeObserver(() => this.#moved()).observe(this.plane);
  }

  /** `rows` are {id, source, x, y, colour}; `isNumber`: colours are numbers from 0 to 1. */
  show(rows, isNumber) {
    const isOther = rows.length !== this.rows.length || rows[0]?.x !== this.rows[0]?.x;
    this.points ??= new Points($('map-points'));
    this.rows = rows;
    this.places = Float32Array.from(rows.flatMap(({ x, y }) => [Number(x), Number(y)]));
    this.points.set(this.places, this.#colours(isNumber));
    if (isOther) this.#fit();
    else this.#moved();
  }

  #colours(isNumber) {
    const found = new Uint8Array(3 * this.rows.length);
    const [low, high] = [rgb(LOW), rgb(HIGH)];
    const counts = new Map();
    for (const { colour } of this.rows) counts.set(colour, (counts.get(colour) ?? 0) + 1);
    counts.delete('');
    const order = [...counts.keys()].sort((one, other) => counts.get(other) - counts.get(one) || (one < other ? -1 : 1));
    const shades = new Map(order.slice(0, PALETTE.length).map((value, place) => [value, rgb(PALETTE[place])]));
    this.rows.forEach(({ colour }, place) => {
      const part = Math.min(1, Math.max(0, Number(colour)));
      const shade = isNumber && colour !== '' ? low.map((from, at) => from + part * (high[at] - from)) : shades.get(colour) ?? rgb(OTHERS);
      found.set(shade, 3 * place);
    });
    const legend = isNumber ? [['0', LOW], ['1', HIGH]] : order.slice(0, PALETTE.length).map((value, place) => [`${value} (${counts.get(value)})`, PALETTE[place]]);
    if (!isNumber && order.length > PALETTE.length) legend.push([`${order.length - PALETTE.length} more`, OTHERS]);
    $('map-legend').replaceChildren(...legend.map(([text, colour]) => {
      const item = Object.assign(document.createElement('li'), { textContent: text });
      item.style.setProperty('--shade', colour);
      return item;
    }));
    return found;
  }

  #size() {
    return [this.plane.clientWidth, this.plane.clientHeight];
  }

  #toMap([left, top]) {
    const [width, height] = this.#size();
    return [this.view.x + (left - width / 2) / this.view.zoom, this.view.y - (top - height / 2) / this.view.zoom];
  }

  #toPlane(place) {
    const [width, height] = this.#size();
    const [x, y] = [this.places[2 * place], this.places[2 * place + 1]];
    return [width / 2 + (x - this.view.x) * this.view.zoom, height / 2 - (y - this.view.y) * this.view.zoom];
  }

  #fit() {
    const [width, height] = this.#size();
    const [left, right, bottom, top] = [[0, Math.min], [0, Math.max], [1, Math.min], [1, Math.max]].map(
      ([axis, pick]) => this.rows.reduce((found, _, place) => pick(found, this.places[2 * place + axis]), this.places[axis] ?? 0),
    );
    const zoom = 0.92 * Math.min(width / Math.max(right - left, 1e-3), height / Math.max(top - bottom, 1e-3));
    this.view = { x: (left + right) / 2, y: (bottom + top) / 2, zoom: zoom || 1 };
    this.#moved();
  }

  #zoom(by, left = this.plane.clientWidth / 2, top = this.plane.clientHeight / 2) {
    const before = this.#toMap([left, top]);
    this.view.zoom *= by;
    const after = this.#toMap([left, top]);
    this.view.x += before[0] - after[0];
    this.view.y += before[1] - after[1];
    this.#moved();
  }

  #pan(right, down) {
    this.view.x += right / this.view.zoom;
    this.view.y -= down / this.view.zoom;
    this.#moved();
  }

  #moved() {
    $('map-thumbs').replaceChildren();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.#thumbnails(), STILL);
    cancelAnimationFrame(this.frame);
    this.frame = requestAnimationFrame(() => this.points?.draw(this.view, this.rows.length > 20_000 ? 3 : 6));
  }

  /** The places of the points in sight, `most` at most and one more. */
  #inSight(most) {
    const [width, height] = this.#size();
    const found = [];
    for (let place = 0; place < this.rows.length && found.length <= most; place++) {
      const [left, top] = this.#toPlane(place);
      if (left >= 0 && left <= width && top >= 0 && top <= height) found.push(place);
    }
    return found;
  }

  #thumbnails() {
    const places = this.#inSight(CROWDED);
    if (places.length > CROWDED) return;
    const taken = new Set(); // squares of the plane, one thumbnail each
    for (const place of places) {
      const [left, top] = this.#toPlane(place);
      const square = `${Math.floor(left / THUMB)} ${Math.floor(top / THUMB)}`;
      if (taken.has(square)) continue;
      taken.add(square);
      const picture = Object.assign(new Image(), { alt: '' });
      picture.style.left = `${left - THUMB / 2}px`;
      picture.style.top = `${top - THUMB / 2}px`;
      $('map-thumbs').append(picture);
      load(this.rows[place], () => picture.isConnected).then((url) => { if (url) picture.src = url; }, () => picture.remove());
    }
  }

  /** A drag moves the map, or draws a lasso; a click opens the nearest picture. */
  #dragged(down) {
    const isLasso = down.shiftKey || $('map-lasso').checked;
    const path = [[down.offsetX, down.offsetY]];
    let last = [down.clientX, down.clientY];
    let isPinch = false;
    const move = (event) => {
      isPinch ||= this.fingers.size > 1;
      if (isPinch || event.pointerId !== down.pointerId) return;
      const [right, below] = [event.clientX - last[0], event.clientY - last[1]];
      last = [event.clientX, event.clientY];
      path.push([path.at(-1)[0] + right, path.at(-1)[1] + below]);
      if (isLasso) $('map-line').setAttribute('points', path.join(' '));
      else this.#pan(-right, -below);
    };
    const up = (event) => {
      if (event.pointerId !== down.pointerId) return;
      for (const end of ['pointerup', 'pointercancel']) this.plane.removeEventListener(end, up);
      this.plane.removeEventListener('pointermove', move);
      $('map-line').setAttribute('points', '');
      const isClick = path.every(([left, top]) => Math.hypot(left - path[0][0], top - path[0][1]) < 4);
      if (event.type === 'pointercancel' || isPinch) return;
      if (isClick) this.#clicked(path[0]);
      else if (isLasso) this.onLasso(path.map((at) => this.#toMap(at)));
    };
    this.plane.setPointerCapture(down.pointerId);
    this.plane.addEventListener('pointermove', move);
    for (const end of ['pointerup', 'pointercancel']) this.plane.addEventListener(end, up);
  }

  /** Two fingers zoom by how far apart they are. */
  #pinched({ pointerId, offsetX, offsetY }) {
    if (!this.fingers.has(pointerId)) return;
    const spread = () => {
      const [[a, b], [c, d]] = this.fingers.values();
      return { apart: Math.hypot(a - c, b - d), middle: [(a + c) / 2, (b + d) / 2] };
    };
    const before = this.fingers.size === 2 && spread();
    this.fingers.set(pointerId, [offsetX, offsetY]);
    if (!before?.apart) return;
    const { apart, middle } = spread();
    this.#zoom(apart / before.apart, ...middle);
  }

  #clicked([left, top]) {
    let [nearest, least] = [null, NEAR];
    this.rows.forEach((row, place) => {
      const at = this.#toPlane(place);
      const distance = Math.hypot(at[0] - left, at[1] - top);
      if (distance < least) [nearest, least] = [row, distance];
    });
    if (nearest) this.onOpen(nearest);
  }

  #pressed(event) {
    const acts = {
      ArrowLeft: () => this.#pan(-STEP, 0), ArrowRight: () => this.#pan(STEP, 0), ArrowUp: () => this.#pan(0, -STEP), ArrowDown: () => this.#pan(0, STEP),
      '+': () => this.#zoom(ZOOM), '-': () => this.#zoom(1 / ZOOM), 0: () => this.#fit(), Enter: () => $('map-sight').click(),
    };
    if (event.ctrlKey || event.metaKey || event.altKey || !(event.key in acts)) return;
    event.preventDefault();
    acts[event.key]();
  }
}
