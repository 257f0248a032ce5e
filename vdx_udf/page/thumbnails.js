// Thumbnails for the grid: what comes into sight together is asked for together. Those that are kept come in one answer; the others
// are made a few at a time, and kept where this user may write.

import { ObjectUrls } from './object_urls.js';
import { SqlError, run, selectBlob } from './sql.js';
import * as statements from './statements.js';

const MADE_AT_A_TIME = 16; // thumbnails in a statement that makes them: the first are seen while others are made
const STATEMENTS_AT_A_TIME = 2; // so that one's pictures are decoded while the other's answer is on its way

const kept = new ObjectUrls(64 << 20);
let waiting = []; // {row, isWanted, resolve, reject}
let isAsking = false;
let mayKeep = true;

/** An object URL of the thumbnail of a row {id, source}; rejects with the reason. Null where `isWanted` said no before its turn came. */
export function load(row, isWanted = () => true) {
  const found = kept.get(row.id);
  if (found) return Promise.resolve(found);
  return new Promise((resolve, reject) => {
    waiting.push({ row, isWanted, resolve, reject });
    if (!isAsking) ask();
  });
}

async function ask() {
  isAsking = true;
  await null; // what comes into sight now is all there
  while (waiting.length) {
    const asked = wanted(waiting);
    waiting = [];
    const missing = await give(asked, statements.keptThumbnails);
    make(missing);
  }
  isAsking = false;
}

/** Those that are still wanted; the others are told. */
function wanted(all) {
  const [yes, no] = [[], []];
  for (const each of all) (each.isWanted() ? yes : no).push(each);
  for (const each of no) each.resolve(null);
  return yes;
}

const toMake = [];
let making = 0;

function make(missing) {
  toMake.push(...missing);
  for (; making < STATEMENTS_AT_A_TIME && toMake.length; making += 1) makeSome().finally(() => { making -= 1; });
}

async function makeSome() {
  while (toMake.length) {
    const some = wanted(toMake.splice(0, MADE_AT_A_TIME));
    if (!some.length) continue;
    const left = (await keep(some)) ? await give(some, statements.keptThumbnails) : some;
    const failed = await give(left, statements.imageThumbnails);
    await Promise.all(failed.map(makeAlone));
  }
}

/** Whether they were made to be kept, as far as the encoder can read them. */
async function keep(some) {
  if (!mayKeep) return false;
  try {
    await run(statements.keepThumbnails(idsOf(some)), { isPicture: true });
  } catch (error) {
    if (!(error instanceof SqlError)) throw error;
    mayKeep = false; // a user without the right to write: they are made each time
  }
  return mayKeep;
}

const idsOf = (some) => [...new Set(some.map(({ row }) => BigInt(row.id)))];

/** Gives what a statement answers to those that asked for it; returns those that it did not answer, with the reason where it said one. */
async function give(some, statement) {
  if (!some.length) return [];
  let answers = new Map();
  try {
    answers = parsed(await (await selectBlob(statement(idsOf(some)), 'RowBinary')).arrayBuffer());
  } catch (error) {
    if (!(error instanceof SqlError)) throw error;
    for (const each of some) each.reason = error.sentence;
  }
  return some.filter((each) => {
    const { jpeg, reason } = answers.get(each.row.id) ?? {};
    if (reason) each.reason = reason;
    if (!jpeg?.size) return true;
    each.resolve(kept.get(each.row.id) ?? kept.keep(each.row.id, jpeg));
    return false;
  });
}

/** RowBinary of id UInt64, bytes String, error String: numbers little-endian, before each string its length in groups of 7 bits. */
function parsed(buffer) {
  const view = new DataView(buffer);
  const found = new Map();
  let at = 0;
  const string = () => {
    let size = 0;
    for (let shift = 1, byte = 128; byte > 127; shift *= 128, at += 1) {
      byte = view.getUint8(at);
      size += (byte & 127) * shift;
    }
    at += size;
    return new Uint8Array(buffer, at - size, size);
  };
  while (at < buffer.byteLength) {
    const id = String(view.getBigUint64(at, true));
    at += 8;
    found.set(id, { jpeg: new Blob([string()], { type: 'image/jpeg' }), reason: new TextDecoder().decode(string()) });
  }
  return found;
}

/** What the encoder cannot read by its source may be where the view `picture`, or url(), finds it. */
async function makeAlone({ row, resolve, reject, reason }) {
  try {
    resolve(kept.keep(row.id, await selectBlob(statements.thumbnailOf(row))));
  } catch (error) {
    reject(reason ? new Error(reason) : error);
  }
}
