// Pictures that were fetched, as URLs for <img>.

/** Keeps up to `most` bytes; the least recently used go first. */
export class ObjectUrls {
  #known = new Map(); // key -> {url, size}, in the order of use
  #bytes = 0;
  #most;

  constructor(most) { this.#most = most; }

  /** The URL of what is kept under the key, undefined where nothing is. */
  get(key) {
    const found = this.#known.get(key);
    if (!found) return undefined;
    this.#known.delete(key);
    this.#known.set(key, found);
    return found.url;
  }

  keep(key, blob) {
    const url = URL.createObjectURL(blob);
    this.#known.set(key, { url, size: blob.size });
    this.#bytes += blob.size;
    for (const [oldest, entry] of this.#known) {
      if (this.#bytes <= this.#most || oldest === key) break;
      this.#known.delete(oldest);
      this.#bytes -= entry.size;
      URL.revokeObjectURL(entry.url);
    }
    return url;
  }
}
