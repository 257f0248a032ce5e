// A grid of pictures that only has elements for what is in sight, so that ten thousand scroll like ten.

import { boxOver } from './parts.js';
import { load } from './thumbnails.js';

const CELL = 176; // least width of a cell, pixels
const ROW = 232; // height of a row; style.css fills it
const AHEAD = 2; // rows kept beyond either edge

export class Grid {
  /** `onOpen(row)`, `onMark(row, positive)`; rows are {id, source, text, mark, box} with mark 'yes', 'no' or '', and a box to be drawn or none. */
  constructor(list, { onOpen, onMark }) {
    this.list = list;
    this.rows = [];
    this.cells = new Map();
    this.current = 0;
    this.onOpen = onOpen;
    this.onMark = onMark;
    addEventListener('scroll', () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(list);
    list.addEventListener('focusin', (event) => {
      this.current = Number(event.target.closest('li').dataset.place);
      this.draw();
    });
    list.addEventListener('click', (event) => this.#clicked(event));
    list.addEventListener('keydown', (event) => this.#pressed(event));
  }

  show(rows) {
    for (const cell of this.cells.values()) cell.remove();
    this.cells.clear();
    this.rows = rows;
    this.current = 0;
    if (scrollY > this.list.offsetTop) scrollTo(0, this.list.offsetTop);
    this.draw();
  }

  /** The row that keys act on: the one whose picture has the focus, or had it last. */
  get currentRow() {
    return this.rows[this.current];
  }

  setMark(id, mark) {
    this.rows.forEach((row, place) => {
      if (row.id === id) {
        row.mark = mark;
        if (this.cells.has(place)) this.#dress(this.cells.get(place), row);
      }
    });
  }

  focus(place) {
    this.current = Math.max(0, Math.min(place, this.rows.length - 1));
    const top = this.list.offsetTop + Math.floor(this.current / this.columns) * ROW;
    if (top < scrollY) scrollTo(0, top);
    else if (top + ROW > scrollY + innerHeight) scrollTo(0, top + ROW - innerHeight);
    this.draw();
    this.cells.get(this.current)?.querySelector('.thumb').focus({ preventScroll: true });
  }

  get columns() {
    return Math.max(2, Math.floor(this.list.clientWidth / CELL));
  }

  draw() {
    const { columns } = this;
    const width = this.list.clientWidth / columns;
    this.list.style.height = `${Math.ceil(this.rows.length / columns) * ROW}px`;
    const top = scrollY - this.list.offsetTop;
    const first = Math.max(0, Math.floor(top / ROW) - AHEAD) * columns;
    const last = Math.min(this.rows.length, (Math.ceil((top + innerHeight) / ROW) + AHEAD) * columns);
    for (const [place, cell] of this.cells) {
      const hasFocus = cell.contains(document.activeElement); // which would be lost with it
      if ((place < first || place >= last) && !hasFocus) {
        cell.remove();
        this.cells.delete(place);
      }
    }
    for (let place = first; place < last; place++) {
      const cell = this.cells.get(place) ?? this.#create(place);
      cell.style.width = `${width}px`;
      cell.style.left = `${(place % columns) * width}px`;
      cell.style.top = `${Math.floor(place / columns) * ROW}px`;
      cell.firstChild.tabIndex = place === this.current ? 0 : -1;
    }
  }

  #create(place) {
    const row = this.rows[place];
    const cell = document.createElement('li');
    cell.dataset.place = place;
    cell.dataset.id = row.id;
    cell.setAttribute('aria-setsize', this.rows.length);
    cell.setAttribute('aria-posinset', place + 1);
    const thumb = Object.assign(document.createElement('button'), { type: 'button', className: 'thumb' });
    const caption = Object.assign(document.createElement('div'), { className: 'caption', textContent: row.text, title: row.source });
    const marks = Object.assign(document.createElement('div'), { className: 'marks' });
    for (const mark of ['yes', 'no']) {
      const button = Object.assign(document.createElement('button'), { type: 'button', className: mark, textContent: mark, tabIndex: -1 });
      button.setAttribute('aria-label', `${mark}: ${nameOf(row.source)}`);
      marks.append(button);
    }
    cell.append(thumb, caption, marks);
    this.#dress(cell, row);
    this.list.append(cell);
    this.cells.set(place, cell);
    const refuse = (why) => { thumb.textContent = `${nameOf(row.source)}: ${why}`.slice(0, 200); };
    load(row, () => cell.isConnected).then((url) => {
      if (!url) return;
      const picture = Object.assign(new Image(), { src: url, alt: '', decoding: 'async' });
      picture.addEventListener('error', () => refuse('no format that this browser shows'));
      thumb.replaceChildren(picture, ...(row.box ? [boxOver(picture, row.box)] : []));
    }, (error) => refuse(error.sentence ?? error.message));
    return cell;
  }

  #dress(cell, row) {
    cell.dataset.mark = row.mark;
    cell.querySelector('.thumb').setAttribute('aria-label', `${nameOf(row.source)}, ${row.text}${row.mark && `, marked ${row.mark}`}`);
    for (const mark of ['yes', 'no']) cell.querySelector(`.${mark}`).setAttribute('aria-pressed', String(row.mark === mark));
  }

  #clicked(event) {
    const button = event.target.closest('button');
    if (!button) return;
    this.current = Number(button.closest('li').dataset.place); // Safari gives a clicked button no focus
    this.draw();
    if (button.classList.contains('thumb')) this.onOpen(this.currentRow);
    else this.onMark(this.currentRow, button.classList.contains('yes'));
  }

  #pressed(event) {
    const page = Math.max(1, Math.floor(innerHeight / ROW)) * this.columns;
    const steps = {
      ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.columns, ArrowUp: -this.columns, PageDown: page, PageUp: -page,
      Home: -Infinity, End: Infinity,
    };
    if (event.key in steps && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      this.focus(this.current + steps[event.key]);
    }
  }
}

/** The last part of a path or URL. */
export function nameOf(source) {
  const path = /^[a-z][a-z0-9+.-]*:\/\//i.test(source) ? source.replace(/[?#].*$/, '') : source;
  return path.replace(/\/+$/, '').split('/').pop() || source;
}
