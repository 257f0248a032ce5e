// Thumbnails: fetched by SQL a few at a time, kept as object URLs, the least recently shown dropped first.

import { selectBlob } from './sql.js';
import * as statements from './statements.js';

const AT_A_TIME = 6; // as many connections as browsers open to one host
const KEPT_BYTES = 256 << 20;

const known = new Map(); // key -> {url, size}, in the order of use
const waiting = []; // {row, isWanted, resolve, reject}
const running = new Map(); // key -> promise
let bytes = 0;

// What names a picture: its source or, where that is no UTF-8 and so came changed, its id.
const keyOf = ({ id, source }) => (statements.isNamed(source) ? source : `id ${id}`);

/** An object URL of the picture of a row {id, source}; rejects with the server's error. Null where `isWanted` said no before its turn came. */
export function load(row, isWanted = () => true) {
  const key = keyOf(row);
  const found = known.get(key);
  if (found) {
    known.delete(key);
    known.set(key, found);
    return Promise.resolve(found.url);
  }
  if (running.has(key)) return running.get(key);
  return new Promise((resolve, reject) => {
    waiting.push({ row, isWanted, resolve, reject });
    next();
  });
}

function next() {
  while (running.size < AT_A_TIME && waiting.length) {
    const { row, isWanted, resolve, reject } = waiting.shift();
    if (!isWanted()) {
      resolve(null);
      continue;
    }
    const key = keyOf(row);
    const fetched = running.get(key) ?? selectBlob(statements.picture(row)).then((blob) => keep(key, blob));
    running.set(key, fetched);
    fetched.then(resolve, reject).finally(() => {
      running.delete(key);
      next();
    });
  }
}

function keep(key, blob) {
  const url = URL.createObjectURL(blob);
  known.set(key, { url, size: blob.size });
  bytes += blob.size;
  for (const [oldest, entry] of known) {
    if (bytes <= KEPT_BYTES || oldest === key) break;
    known.delete(oldest);
    bytes -= entry.size;
    URL.revokeObjectURL(entry.url);
  }
  return url;
}
