// Pictures as they are, for the large view; the grid shows thumbnails.

import { ObjectUrls } from './object_urls.js';
import { selectBlob } from './sql.js';
import * as statements from './statements.js';

const kept = new ObjectUrls(256 << 20);

// What names a picture: its source or, where that is no UTF-8 and so came changed, its id.
const keyOf = ({ id, source }) => (statements.isNamed(source) ? source : `id ${id}`);

/** An object URL of the picture of a row {id, source}; rejects with the server's error. */
export async function load(row) {
  const key = keyOf(row);
  return kept.get(key) ?? kept.keep(key, await selectBlob(statements.picture(row)));
}
