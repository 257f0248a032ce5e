// Thumbnails: fetched by SQL a few at a time, kept as object URLs, the least recently shown dropped first.

import { selectBlob } from './sql.js';
import * as statements from './statements.js';

const AT_A_TIME = 6; // as many connections as browsers open to one host
const KEPT_BYTES = 256 << 20;

const known = new Map(); // source -> {url, size}, in the order of use
const waiting = []; // {source, isWanted, resolve, reject}
const running = new Map(); // source -> promise
let bytes = 0;

/** An object URL of the picture; rejects with the server's error. Null where `isWanted` said no before its turn came. */
export function load(source, isWanted = () => true) {
  const found = known.get(source);
  if (found) {
    known.delete(source);
    known.set(source, found);
    return Promise.resolve(found.url);
  }
  if (running.has(source)) return running.get(source);
  return new Promise((resolve, reject) => {
    waiting.push({ source, isWanted, resolve, reject });
    next();
  });
}

function next() {
  while (running.size < AT_A_TIME && waiting.length) {
    const { source, isWanted, resolve, reject } = waiting.shift();
    if (!isWanted()) {
      resolve(null);
      continue;
    }
    const fetched = running.get(source) ?? selectBlob(statements.picture(source)).then((blob) => keep(source, blob));
    running.set(source, fetched);
    fetched.then(resolve, reject).finally(() => {
      running.delete(source);
      next();
    });
  }
}

function keep(source, blob) {
  const url = URL.createObjectURL(blob);
  known.set(source, { url, size: blob.size });
  bytes += blob.size;
  for (const [oldest, entry] of known) {
    if (bytes <= KEPT_BYTES || oldest === source) break;
    known.delete(oldest);
    bytes -= entry.size;
    URL.revokeObjectURL(entry.url);
  }
  return url;
}
