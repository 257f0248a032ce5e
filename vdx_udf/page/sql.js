// Sends SQL to ClickHouse's HTTP interface, and keeps what was sent. Nothing else on this page talks to a server.

const KEPT = 1000; // statements
const PARSED = 200_000; // letters that ClickHouse parses without being asked to (max_query_size)

/** A statement, or a part of one, whose values are literals already. */
export class Sql {
  constructor(text) { this.text = text; }
}

function literal(value) {
  if (value instanceof Sql) return value.text;
  if (Array.isArray(value)) return `[${value.map(literal).join(', ')}]`;
  if (typeof value === 'string') return `'${value.replaceAll('\\', '\\\\').replaceAll("'", "\\'")}'`;
  if (typeof value === 'boolean' || typeof value === 'bigint' || Number.isFinite(value)) return String(value);
  throw new TypeError(`not a value for SQL: ${value}`);
}

/** sql`SELECT ${value}`: strings, numbers, arrays and Booleans become literals, other sql`...` stays SQL. */
export function sql(parts, ...values) {
  return new Sql(parts.reduce((text, part, place) => text + literal(values[place - 1]) + part));
}

/** What the server said: `sentence` for people, `message` whole. `code` is ClickHouse's, 0 where no server answered. */
export class SqlError extends Error {
  constructor(message) {
    super(message.trim());
    this.code = Number(/^Code: (\d+)/.exec(this.message)?.[1] ?? 0);
    this.sentence = this.message
      .replace(/^Code: 395\. DB::Exception: (.*?): while executing 'FUNCTION throwIf.*/s, '$1')
      .replace(/^.*User defined function '\w+' failed.*Stderr: (.*?)\s*\. \(CHILD_WAS_NOT.*/s, '$1')
      .replace(/^Code: \d+\. DB::Exception: /, '')
      .replace(/ \(version [^)]*\)\.?$/, '')
      .replace(/ \([A-Z_]+\)$/, '');
  }
}

/** Every statement, the latest last: {number, text, isPicture, milliseconds, rows, error}; 'sent' and 'answered' events tell. */
export const log = Object.assign(new EventTarget(), { statements: [], pictures: 0 });

let sent = 0;
const database = new URLSearchParams(location.search).get('database');

async function send(text, { signal, isPicture = false } = {}) {
  const entry = { number: ++sent, text, isPicture, milliseconds: null, rows: null, error: null };
  log.statements.push(entry);
  log.pictures += isPicture;
  if (log.statements.length > KEPT) log.statements.shift();
  log.dispatchEvent(new CustomEvent('sent', { detail: entry }));
  const began = performance.now();
  try {
    return [await fetchAnswer(text, signal, isPicture), entry];
  } catch (error) {
    entry.error = error.sentence ?? error.message;
    throw error;
  } finally {
    entry.milliseconds = performance.now() - began;
    log.dispatchEvent(new CustomEvent('answered', { detail: entry }));
  }
}

async function fetchAnswer(text, signal, isPicture) {
  const parameters = new URLSearchParams({ default_format: 'JSONCompactStrings' }); // 64-bit ids are no JavaScript numbers
  if (database) parameters.set('database', database);
  if (text.length > PARSED) parameters.set('max_query_size', String(4 * text.length));
  const user = JSON.parse(sessionStorage.getItem('user') ?? '{"name": "default", "password": ""}');
  const headers = { 'X-ClickHouse-User': user.name, 'X-ClickHouse-Key': user.password };
  let response;
  try {
    // With credentials the browser itself would ask for a password where the server wants one, before the page can.
    response = await fetch(`/?${parameters}`, { method: 'POST', body: text, headers, signal, credentials: 'omit' });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    throw new SqlError('no answer from the server: is it still running?');
  }
  if (!response.ok) throw new SqlError(await response.text());
  return isPicture ? response.blob() : response.text();
}

/** The rows of a SELECT, as objects of strings, null for NULL. Raises SqlError. */
export async function select(statement, options) {
  const [text, entry] = await send(statement.text, options);
  const { meta, data } = JSON.parse(text);
  entry.rows = data.length;
  log.dispatchEvent(new CustomEvent('answered', { detail: entry }));
  const value = (text, type) => (text === 'ᴺᵁᴸᴸ' && type.startsWith('Nullable') ? null : text);
  return data.map((row) => Object.fromEntries(meta.map(({ name, type }, place) => [name, value(row[place], type)])));
}

/** Runs a statement that has no answer. Raises SqlError. */
export async function run(statement, options) {
  await send(statement.text, options);
}

/** The answer of a SELECT of pictures as a Blob; in RawBLOB that is its one value. Raises SqlError. */
export async function selectBlob(statement, format = 'RawBLOB') {
  const [blob] = await send(`${statement.text} FORMAT ${format}`, { isPicture: true });
  return blob;
}

/** The answer of a SELECT as text in a format of ClickHouse's. Raises SqlError. */
export async function selectText(statement, format) {
  const [text] = await send(`${statement.text} FORMAT ${format}`);
  return text;
}

export function signIn(name, password) {
  sessionStorage.setItem('user', JSON.stringify({ name, password }));
}
