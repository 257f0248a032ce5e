// The page: what is looked at (a view), the filters, the grid, messages, keys and dialogs.

import { SqlError, log, run, select, signIn } from './sql.js';
import * as statements from './statements.js';
import { Concept } from './concept.js';
import { Grid, nameOf } from './grid.js';
import { Health } from './health.js';
import { PictureMap } from './map.js';
import { Parts, cut } from './parts.js';
import { load } from './pictures.js';
import { load as loadThumbnail } from './thumbnails.js';

const SLOW = 3000; // milliseconds until a query counts as slow
const LABELS_A_ROUND = 30;
const LARGEST = 150_000; // bytes of a picture: as base64 they fit into what ClickHouse parses as a view's argument (256 KiB)
const REDUCED = 512; // pixels of the longer side that a larger one is reduced to, or fewer until it fits
const ON_A_CARD = 4; // pictures of a data set
const SHOWN = 600; // letters of a statement in the log
const NOT_SIGNED_IN = [193, 194, 516]; // WRONG_PASSWORD, REQUIRED_PASSWORD, AUTHENTICATION_FAILED

const $ = (id) => document.getElementById(id);
const plural = (count, thing) => `${count} ${thing}${count === 1 ? '' : 's'}`;
const number = (text, digits = 3) => Number(text).toFixed(digits);

// Work: one view at a time, with what it does, how long it takes and what went wrong

let latest = 0;
let depth = 0;
let abort = new AbortController();

/** Runs a task and gives its value; what goes wrong becomes the page's message, and undefined is given. A write is not cancelled. */
async function work(what, task, mayCancel = false) {
  const began = performance.now();
  depth += 1;
  if (depth === 1) $('message').hidden = true;
  const timer = setInterval(() => {
    const seconds = Math.round((performance.now() - began) / 1000);
    $('said').textContent = `${what}… ${seconds * 1000 >= SLOW ? `still at it after ${seconds} s` : ''}`;
    $('cancel').hidden = !mayCancel;
  }, 1000);
  try {
    return await task();
  } catch (error) {
    if (error.name !== 'AbortError') complain(error);
    else $('said').textContent = 'cancelled';
    return undefined;
  } finally {
    clearInterval(timer);
    depth -= 1;
    if (!depth) $('cancel').hidden = true;
  }
}

function complain(error) {
  if (NOT_SIGNED_IN.includes(error.code) && !$('login').open) $('login').showModal();
  const whole = error instanceof SqlError && error.message !== error.sentence;
  const sentence = Object.assign(document.createElement('p'), { textContent: error.sentence ?? error.message });
  const details = document.createElement('details');
  details.append(
    Object.assign(document.createElement('summary'), { textContent: 'as the server said it' }),
    Object.assign(document.createElement('pre'), { textContent: error.message }),
  );
  $('message').replaceChildren(sentence, ...(whole ? [details] : []));
  $('message').hidden = false;
  $('said').textContent = '';
  if (!(error instanceof SqlError)) console.error(error);
}

// Views: what fills the grid

const filter = () => ({ dataset: $('dataset').value, attribute: $('attribute').value, value: $('attribute').value && $('value').value });
const count = () => Number($('count').value);
const byParts = () => $('parts').checked;
const boxOf = ({ box }) => (box ? JSON.parse(box) : null);
/** A box that is less than the whole picture, or null. */
const drawnBox = (box) => (box && (box[2] < 1 || box[3] < 1) ? box : null);
const near = (row) => number(row.distance);
const probable = (row) => number(row.probability);

/** Of each kind of view: its statement, what stands below a picture, and what the grid then shows. */
const VIEWS = {
  newest: {
    statement: () => statements.newest(filter(), count()), text: (row) => nameOf(row.source),
    title: () => `newest first, of ${filter().dataset ? `“${filter().dataset}”` : here}`,
  },
  text: { statement: (view) => (byParts() ? statements.searchTextParts : statements.searchText)(view.text, filter(), count()), text: near, title: (view) => `nearest to “${view.text}”` },
  picture: { statement: (view) => (byParts() ? statements.searchPictureParts : statements.searchPicture)(view.base64, filter(), count()), text: near, title: (view) => `nearest to ${view.name}` },
  like: { statement: (view) => statements.searchLike(view.id, filter(), count()), text: near, title: (view) => `most like ${nameOf(view.source)}` },
  best: { statement: (view) => (byParts() ? statements.bestByParts : statements.best)(view.concept, filter(), count()), text: probable, title: (view) => `best of “${view.concept}”` },
  next: { statement: (view) => (byParts() ? statements.nextByParts : statements.nextToLabel)(view.concept, LABELS_A_ROUND), text: (row) => `${probable(row)} ${row.reason}`, title: () => 'to label next' },
  moved: {
    statement: (view) => statements.moved(view.concept, view.before, view.after, view.top),
    keep: (row, view) => row.moved === view.moved,
    text: (row) => `${number(row.probability_before)} → ${number(row.probability_after)}`,
    title: (view) => `moved ${view.moved} of the ${view.top} best, round ${view.before} to ${view.after}`,
  },
  label: { statement: (view) => statements.withLabel(view.labels, view.set, view.label, filter(), count()), text: probable, title: (view) => `labelled “${view.label}”` },
  duplicates: {
    statement: (view) => statements.duplicates($('dataset').value, view.least, count()),
    text: (row) => `${row.keep === '1' ? 'keep' : 'copy'}, group ${row.group_id.slice(-5)}`, title: () => 'near duplicates',
  },
  mistakes: {
    statement: (view) => statements.mistakes($('dataset').value, view.attribute, count()),
    text: (row) => `${row.given}? ${row.suggested} ${number(row.suspicion, 2)}`, title: () => 'likely mistakes',
  },
  health: { statement: (view) => statements.healthImages($('dataset').value, view.issue, count()), text: (row) => row.why, title: (view) => `odd: ${view.issue}` },
  outliers: { statement: (view) => statements.outliers($('dataset').value, view.order, count()), text: (row) => number(row[view.order]), title: (view) => `highest ${view.order}` },
  lasso: { statement: (view) => statements.withinMap(view.dataset, view.polygon, count()), text: (row) => nameOf(row.source), title: () => 'taken on the map' },
};

let view = null;
let here = ''; // how many pictures and data sets there are, in words

/** Fills the grid with a view; the last one asked for wins. */
async function show(wanted) {
  view = wanted;
  const mine = ++latest;
  const { statement, text, title, keep = () => true } = VIEWS[wanted.kind];
  abort.abort();
  abort = new AbortController();
  $('start').hidden = wanted.kind !== 'newest';
  $('grid').setAttribute('aria-busy', 'true');
  $('said').textContent = `${title(wanted)}…`;
  const began = performance.now();
  const rows = await work(title(wanted), () => select(statement(wanted), { signal: abort.signal }), true);
  if (mine !== latest) return;
  $('grid').removeAttribute('aria-busy');
  if (!rows) return;
  const kept = rows.filter((row) => keep(row, wanted));
  grid.show(kept.map((row) => ({ id: row.id, source: row.source, text: text(row), mark: concept.markOf(row.id), box: drawnBox(boxOf(row)) })));
  const milliseconds = Math.round(performance.now() - began);
  $('said').textContent = `${kept.length} pictures ${title(wanted)}, ${milliseconds} ms`;
  $('empty').hidden = kept.length > 0;
  if (!kept.length) $('empty').textContent = wanted.kind in { duplicates: 1, mistakes: 1, health: 1 } ? 'None found.' : 'No picture matches: choose other filters, or another search.';
}

const health = new Health($('health-rows'), { work, show, say: (text) => { $('said').textContent = text; }, dataset: () => $('dataset').value });
const grid = new Grid($('grid'), { onOpen: openDetails, onMark: (row, positive) => concept.mark(row.id, positive) });
const concept = new Concept({ work, show, onMark: (id, mark) => grid.setMark(id, mark), onOpen: openDetails, suggest: suggestion, byParts });

/** What a first mark starts a concept from: the search whose hits are marked. */
function suggestion() {
  if (view?.kind === 'text') return { name: view.text, start: statements.startFromText(view.text, view.text) };
  if (view?.kind === 'picture') return { name: `like ${view.name}`, start: statements.startFromPicture(`like ${view.name}`, view.base64) };
  if (view?.kind === 'like') {
    const name = `like ${nameOf(view.source)}`;
    return { name, start: statements.startFromImage(name, view.id) };
  }
  return null;
}

// Searching by text and by picture

$('search').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = $('query').value.trim();
  if (text) show({ kind: 'text', text });
});

async function searchFile(file) {
  await work(`reading ${file.name}`, async () => show({ kind: 'picture', name: file.name, base64: await base64(file) }));
}

/** The file's bytes; a large picture reduced first: the model sees a few hundred pixels of it. */
async function base64(file) {
  const small = file.size <= LARGEST ? file : await reduced(file).catch(() => {
    throw new Error(`${file.name} is larger than 150 kB and no picture that this browser can read.`);
  });
  const bytes = new Uint8Array(await small.arrayBuffer());
  let text = '';
  for (let start = 0; start < bytes.length; start += 8192) text += String.fromCharCode(...bytes.subarray(start, start + 8192));
  return btoa(text);
}

async function reduced(file) {
  const whole = await createImageBitmap(file);
  let scale = Math.min(1, REDUCED / Math.max(whole.width, whole.height));
  for (;;) {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(whole.width * scale)), Math.max(1, Math.round(whole.height * scale)));
    canvas.getContext('2d').drawImage(whole, 0, 0, canvas.width, canvas.height);
    const blob = await canvas.convertToBlob({ type: 'image/webp', quality: 0.9 }); // PNG where the browser writes no WebP
    if (blob.size <= LARGEST) return blob;
    scale *= 0.8;
  }
}

$('file').addEventListener('change', () => {
  const [file] = $('file').files;
  $('file').value = '';
  if (file) searchFile(file);
});
addEventListener('dragover', (event) => {
  event.preventDefault();
  document.body.classList.add('dropping');
});
addEventListener('dragleave', (event) => event.relatedTarget ?? document.body.classList.remove('dropping'));
addEventListener('drop', (event) => {
  event.preventDefault();
  document.body.classList.remove('dropping');
  const [file] = event.dataTransfer.files;
  if (file) searchFile(file);
});
addEventListener('paste', (event) => {
  const [file] = event.clipboardData.files;
  if (file) searchFile(file);
});

// Filters

let values = new Map(); // attribute -> its options

async function readAttributes() {
  const rows = await work('reading attributes', () => select(statements.attributes($('dataset').value)));
  const chosen = filter();
  values = new Map();
  for (const { attribute, value, images } of rows ?? []) {
    values.set(attribute, [...(values.get(attribute) ?? []), new Option(`${value} (${images})`, value)]);
  }
  const checked = $('mistake-attribute').value || 'label';
  const coloured = $('map-attribute').value;
  $('map-attribute').replaceChildren(...[...values.keys()].map((name) => new Option(name, name, false, name === coloured)));
  $('attribute').replaceChildren(new Option('any', ''), ...[...values.keys()].map((name) => new Option(name, name, false, name === chosen.attribute)));
  $('mistake-attribute').replaceChildren(...[...values.keys()].map((name) => new Option(name, name, false, name === checked)));
  fillValues(chosen.value);
}

function fillValues(chosen = '') {
  const options = values.get($('attribute').value) ?? [];
  $('value').replaceChildren(...options);
  if (options.some(({ value }) => value === chosen)) $('value').value = chosen;
  $('value').disabled = !options.length;
}

for (const id of ['count', 'value', 'parts']) $(id).addEventListener('change', () => view && show(view));
$('attribute').addEventListener('change', () => {
  fillValues();
  if (view) show(view);
});
$('dataset').addEventListener('change', async () => {
  pressCards();
  if (!$('panel-health').hidden) health.read();
  await readAttributes();
  if (view) show(view);
});

// The start: data sets as cards, the newest pictures

const inSight = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    if (!isIntersecting) continue;
    inSight.unobserve(target);
    target.dispatchEvent(new Event('insight'));
  }
});

function card({ dataset, images, rejects, loaded_at: loadedAt, examples }) {
  const button = Object.assign(document.createElement('button'), { type: 'button', className: 'card' });
  const strip = Object.assign(document.createElement('span'), { className: 'strip' });
  const rejected = Number(rejects) ? `, ${rejects} rejected` : '';
  button.dataset.dataset = dataset;
  button.disabled = !dataset; // the filter's '' means all
  button.append(
    strip,
    Object.assign(document.createElement('strong'), { textContent: dataset || 'without a name' }),
    Object.assign(document.createElement('span'), { className: 'hint', textContent: `${plural(Number(images), 'picture')}${rejected}, loaded ${loadedAt.slice(0, 16)}` }),
  );
  button.addEventListener('click', () => {
    $('dataset').value = $('dataset').value === dataset ? '' : dataset;
    $('dataset').dispatchEvent(new Event('change'));
  });
  button.addEventListener('insight', () => {
    for (const [id, source] of JSON.parse(examples)) {
      const picture = Object.assign(new Image(), { alt: '', decoding: 'async' });
      loadThumbnail({ id, source }).then((url) => { picture.src = url; strip.append(picture); }, () => {}); // one that cannot be read has no place here
    }
  });
  inSight.observe(button);
  const item = document.createElement('li');
  item.append(button);
  if (dataset) item.append(healthButton(dataset));
  return item;
}

function healthButton(dataset) {
  const button = Object.assign(document.createElement('button'), { type: 'button', className: 'to-health', textContent: 'Health' });
  button.setAttribute('aria-label', `Health of ${dataset}`);
  button.addEventListener('click', () => {
    if ($('dataset').value !== dataset) {
      $('dataset').value = dataset;
      $('dataset').dispatchEvent(new Event('change'));
    }
    openTab($('tab-health'));
  });
  return button;
}

function pressCards() {
  for (const button of document.querySelectorAll('.card')) {
    button.setAttribute('aria-pressed', String(!button.disabled && button.dataset.dataset === $('dataset').value));
  }
}

$('home').addEventListener('click', (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return; // in another tab or window
  event.preventDefault();
  openTab(tabs[0]);
  $('query').value = '';
  show({ kind: 'newest' });
});

// Zero-shot labels

let templateSets = new Map();

async function readTemplates(chosen = $('template-set').value || 'default') {
  templateSets = new Map();
  for (const { template_set, template } of await select(statements.templates())) {
    templateSets.set(template_set, [...(templateSets.get(template_set) ?? []), template]);
  }
  $('template-set').replaceChildren(...[...templateSets.keys()].map((set) => new Option(set, set, false, set === chosen)));
  fillTemplates();
}

function fillTemplates() {
  const set = $('template-set').value;
  $('template-list').value = (templateSets.get(set) ?? []).join('\n');
  $('template-name').value = set === 'default' ? 'my templates' : set;
}

$('template-set').addEventListener('change', fillTemplates);
$('templates').addEventListener('submit', async (event) => {
  event.preventDefault();
  await work('saving templates', async () => {
    const set = $('template-name').value.trim();
    const list = $('template-list').value.split('\n').map((line) => line.trim()).filter(Boolean);
    if (!set || !list.length) throw new Error('Name the set and write a template at least.');
    if (set === 'default') throw new Error('The set “default” is the one that classify() uses: save yours under another name.');
    const wrong = list.find((template) => !template.includes('{}'));
    if (wrong) throw new Error(`“${wrong}” has no {}, where the label goes.`);
    await run(statements.dropTemplates(set));
    await run(statements.addTemplates(set, list));
    await readTemplates(set);
    $('said').textContent = `saved ${list.length} templates as “${set}”`;
  });
});
$('labels').addEventListener('submit', async (event) => {
  event.preventDefault();
  const labels = [...new Set($('label-list').value.split(/[\n,]/).map((label) => label.trim()).filter(Boolean))];
  const set = $('template-set').value;
  await work('labelling', async () => {
    if (labels.length < 2) throw new Error('Write two labels at least: each picture gets the one that fits best.');
    const rows = await select(statements.coverage(labels, set));
    $('label-summary').replaceChildren(...rows.map(({ label, images, unsure }) => {
      const button = Object.assign(document.createElement('button'), { type: 'button', textContent: `${label}: ${images} (${unsure} unsure)` });
      button.addEventListener('click', () => show({ kind: 'label', labels, set, label }));
      return button;
    }));
    await show({ kind: 'label', labels, set, label: rows[0].label });
  });
});

// Near duplicates, likely mistakes, outliers

$('duplicates').addEventListener('submit', async (event) => {
  event.preventDefault();
  const least = Number($('least').value);
  await work('comparing all pictures', async () => {
    await run(statements.findDuplicates($('dataset').value, least));
    await show({ kind: 'duplicates', least });
  });
});

async function needNeighbours() {
  const [{ missing }] = await select(statements.neighboursKnown($('dataset').value));
  if (missing !== '0') await run(statements.findNeighbours($('dataset').value));
}

$('mistakes').addEventListener('submit', async (event) => {
  event.preventDefault();
  await work('finding neighbours', async () => {
    if (!$('mistake-attribute').value) throw new Error('No picture has attributes: there is no label to check.');
    await needNeighbours();
    await show({ kind: 'mistakes', attribute: $('mistake-attribute').value });
  });
});
$('outliers').addEventListener('submit', async (event) => {
  event.preventDefault();
  await work('finding neighbours', async () => {
    await needNeighbours();
    await show({ kind: 'outliers', order: $('outlier-order').value });
  });
});

// The map

let taken = null; // {dataset, polygon}
const map = new PictureMap({
  onOpen: openDetails,
  onLasso: (polygon) => {
    taken = { dataset: mapOf, polygon };
    for (const id of ['map-yes', 'map-no']) $(id).disabled = false;
    show({ kind: 'lasso', ...taken });
  },
});
let mapOf = ''; // the data set that it shows

async function showMap(compute) {
  $('said').textContent = 'laying out the map…';
  await work('laying out the map', async () => {
    const dataset = $('dataset').value;
    const [colour, attribute] = [$('map-colour').value, $('map-attribute').value];
    if (['marks', 'score'].includes(colour) && !concept.name) throw new Error('Start or choose a concept first: the colour is its.');
    if (['attribute', 'suspicion'].includes(colour) && !attribute) throw new Error('No picture has attributes: choose another colour.');
    const [{ points }] = await select(statements.mapKnown(dataset));
    if (compute || points === '0') await run(statements.computeMap(dataset, $('map-method').value));
    const [{ missing }] = await select(statements.mapKnown(dataset));
    if (missing !== '0') await run(statements.placeNew(dataset));
    if (colour === 'suspicion') await needNeighbours();
    const rows = await select(statements.mapPoints(colour, { dataset, attribute, concept: concept.name }));
    $('map-shown').hidden = false;
    mapOf = dataset;
    map.show(rows, ['score', 'suspicion'].includes(colour));
    $('said').textContent = `${plural(rows.length, 'point')} on the map`;
  });
}

$('map').addEventListener('submit', (event) => {
  event.preventDefault();
  showMap(false);
});
$('map-compute').addEventListener('click', () => showMap(true));
for (const [id, positive] of [['map-yes', true], ['map-no', false]]) {
  $(id).addEventListener('click', () => concept.markAll((name) => statements.labelWithin(name, taken.dataset, taken.polygon, positive)));
}

// Tabs

const tabs = [...$('tabs').children];

function openTab(tab) {
  for (const each of tabs) {
    each.setAttribute('aria-selected', String(each === tab));
    each.tabIndex = each === tab ? 0 : -1;
    $(each.getAttribute('aria-controls')).hidden = each !== tab;
  }
  if (tab.id === 'tab-health') health.read();
}

for (const tab of tabs) {
  tab.addEventListener('click', () => openTab(tab));
  tab.addEventListener('keydown', (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const other = tabs[(tabs.indexOf(tab) + step + tabs.length) % tabs.length];
    openTab(other);
    other.focus();
  });
}

// One picture

let opened = null;

async function openDetails(row) {
  opened = row;
  parts.show(row.box);
  $('details-why').hidden = !explains(view) || $('parts-wanted').hidden;
  $('details-why').setAttribute('aria-pressed', 'false');
  $('details-title').textContent = nameOf(row.source);
  $('details-picture').removeAttribute('src');
  $('details-facts').replaceChildren();
  $('details').showModal();
  await work('reading the picture', async () => {
    const [known = { source: row.source, error: row.text, attributes: '{}' }] = await select(statements.facts(row.id)); // of a reject
    const { attributes, ...plain } = known;
    const facts = [...Object.entries({ id: row.id, ...plain }), ...Object.entries(JSON.parse(attributes))].filter(([, value]) => value !== '');
    $('details-facts').replaceChildren(...facts.map(([name, value]) => {
      const line = document.createElement('div');
      line.append(Object.assign(document.createElement('dt'), { textContent: name }), Object.assign(document.createElement('dd'), { textContent: value }));
      return line;
    }));
    $('details-picture').src = await load(row);
    $('details-picture').alt = known.caption || nameOf(row.source);
  });
}

function moreLike(row) {
  if (!row) return;
  openTab(tabs[0]);
  $('query').value = '';
  show({ kind: 'like', id: row.id, source: row.source });
}

// A part of it

const parts = new Parts($('details-parts'), (box) => { $('details-part').disabled = $('details-part-yes').disabled = !box; });
/** Whether what is looked at says how near each part is. */
const explains = (looked) => ['text', 'picture', 'best', 'next'].includes(looked?.kind);

$('details-part').addEventListener('click', async () => {
  const file = await work('cutting the picture', () => cut($('details-picture'), parts.box, `a part of ${nameOf(opened.source)}`));
  $('details').close();
  openTab(tabs[0]);
  $('query').value = '';
  if (file) searchFile(file);
});
$('details-part-yes').addEventListener('click', () => concept.mark(opened.id, true, parts.box));
$('details-why').addEventListener('click', async () => {
  const isShown = $('details-why').getAttribute('aria-pressed') === 'true';
  $('details-why').setAttribute('aria-pressed', String(!isShown));
  const rows = isShown ? [] : await work('scoring the parts', () => select(statements.partScores(view, opened.id)));
  const scores = (rows ?? []).map(({ score }) => Number(score));
  const [least, most] = [Math.min(...scores), Math.max(...scores)];
  parts.showHeat((rows ?? []).map((row, place) => [boxOf(row), (scores[place] - least) / (most - least || 1)]));
});

$('details-like').addEventListener('click', () => {
  $('details').close();
  moreLike(opened);
});

// Keys

const KEYS = {
  '/': () => { openTab(tabs[0]); $('query').focus(); },
  '?': () => $('help').showModal(),
  y: () => judge(true),
  n: () => judge(false),
  m: () => moreLike(grid.currentRow),
  r: () => concept.refine(),
  l: () => concept.name && concept.showNext(),
  u: () => concept.undo(),
};

function judge(positive) {
  const row = grid.currentRow;
  if (!row) return;
  grid.focus(grid.current + 1);
  concept.mark(row.id, positive);
}

addEventListener('keydown', (event) => {
  const writes = event.target.closest('input, textarea, select') && event.target.type !== 'checkbox';
  if (writes || event.ctrlKey || event.metaKey || event.altKey || document.querySelector('dialog[open]')) return;
  if (event.key in KEYS) {
    event.preventDefault();
    KEYS[event.key]();
  }
});
$('help-open').addEventListener('click', () => $('help').showModal());
$('cancel').addEventListener('click', () => abort.abort());

// The log

function logRow(entry) {
  const item = document.createElement('li');
  item.className = entry.isPicture ? 'picture' : '';
  const head = Object.assign(document.createElement('div'), { className: 'row' });
  const said = document.createElement('span');
  const copy = Object.assign(document.createElement('button'), { type: 'button', textContent: 'Copy' });
  copy.setAttribute('aria-label', `copy statement ${entry.number}`);
  copy.addEventListener('click', async () => {
    await copyText(entry.text);
    copy.textContent = 'Copied';
    setTimeout(() => { copy.textContent = 'Copy'; }, 1500);
  });
  head.append(said, copy);
  const text = entry.text.length > SHOWN ? `${entry.text.slice(0, SHOWN)}… (${entry.text.length} letters)` : entry.text;
  item.append(head, Object.assign(document.createElement('pre'), { textContent: text }));
  const update = () => {
    said.className = entry.error ? 'failed' : '';
    const rows = entry.rows === null ? '' : `, ${entry.rows} rows`;
    said.textContent = entry.milliseconds === null ? 'running' : `${Math.round(entry.milliseconds)} ms${entry.error ? ', failed' : rows}`;
  };
  update();
  return { item, update };
}

/** The clipboard of a page that is not served over HTTPS, as a server's own port mostly is not, takes only what is selected. */
async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  const area = Object.assign(document.createElement('textarea'), { value: text, className: 'visually-hidden' });
  document.body.append(area);
  area.select();
  document.execCommand('copy');
  area.remove();
  return undefined;
}

const logRows = new Map();
log.addEventListener('sent', ({ detail: entry }) => {
  const row = logRow(entry);
  logRows.set(entry.number, row);
  $('log-rows').prepend(row.item);
  $('picture-count').textContent = log.pictures;
  for (const [number, old] of logRows) {
    if (number >= log.statements[0].number) break;
    old.item.remove();
    logRows.delete(number);
  }
});
log.addEventListener('answered', ({ detail: entry }) => logRows.get(entry.number)?.update());
$('log-pictures').addEventListener('change', () => $('log').classList.toggle('with-pictures', $('log-pictures').checked));

// Begin

$('login-form').addEventListener('submit', (event) => {
  event.preventDefault();
  signIn($('user').value, $('password').value);
  $('login').close();
  begin();
});

/** Searching by parts is offered where there are parts. */
async function readParts() {
  const [{ parts: known }] = await select(statements.parts());
  $('parts-wanted').hidden = known === '0';
}

async function begin() {
  await work('reading what is here', async () => {
    const known = await select(statements.datasets(ON_A_CARD));
    const total = known.reduce((sum, { images }) => sum + Number(images), 0);
    here = `${plural(total, 'picture')} in ${plural(known.length, 'data set')}`;
    $('dataset').replaceChildren(new Option('all', ''), ...known.map(({ dataset, images }) => new Option(`${dataset} (${images})`, dataset)));
    $('cards').replaceChildren(...known.map(card));
    pressCards();
    const others = [readAttributes(), concept.list(), readTemplates(), readParts()];
    if (total) await show({ kind: 'newest' });
    else {
      $('start').hidden = !known.length; // data sets of rejects alone
      $('said').textContent = here;
      $('empty').hidden = false;
      $('empty').textContent = 'The table images is empty. Load pictures first: vdx load folder /pictures, or INSERT INTO inbox.';
    }
    await Promise.all(others);
  });
}

begin();
