// The concept beside the grid: labels, rounds, what a round moved, undo, saving and loading.

import { run, select, selectText } from './sql.js';
import * as statements from './statements.js';
import { nameOf } from './grid.js';
import { load } from './thumbnails.js';
import { precisionPlot, scorePlot } from './plots.js';

const TOP = 100; // of the ranking, that "what moved" compares
const TELLING = 4; // pictures that moved, shown beside their number

const $ = (id) => document.getElementById(id);
const plural = (count, thing) => `${count} ${thing}${count === 1 ? '' : 's'}`;

export class Concept {
  /**
   * `work(what, task)` runs a task with status, cancel button and error message, and gives its value or undefined.
   * `suggest()` is what a first mark starts a concept from: {name, start}, or null. `show(view)` fills the grid,
   * `onMark(id, mark)` dresses a picture in it, `onOpen(row)` shows one picture, `byParts()` says whether pictures go by
   * their parts.
   */
  constructor({ work, suggest, show, onMark, onOpen, byParts }) {
    Object.assign(this, { work, suggest, show, onMark, onOpen, byParts });
    this.name = '';
    this.marks = new Map(); // of an image: {positive, box}, box null where it was not said
    this.rounds = [];
    this.steps = []; // {what, undo()}, the latest last
    this.turn = Promise.resolve(); // the end of what was asked for last
    $('concept').addEventListener('change', () => this.#choose($('concept').value));
    $('concept-start').addEventListener('submit', (event) => {
      event.preventDefault();
      const prompt = $('concept-prompt').value.trim();
      if (prompt) this.#startAndShow(prompt);
    });
    $('refine').addEventListener('click', () => this.refine());
    $('next').addEventListener('click', () => this.showNext());
    $('best').addEventListener('click', () => this.showBest());
    $('undo').addEventListener('click', () => this.undo());
    $('save-concept').addEventListener('click', () => this.#save());
    $('concept-file').addEventListener('change', () => this.#load());
    $('distribution').addEventListener('toggle', () => this.#drawScores());
    $('round-rows').addEventListener('click', (event) => {
      if (event.target.dataset.round) this.#goBack(Number(event.target.dataset.round));
    });
  }

  /** Runs a task after those that were asked for before it: keys are pressed faster than a server answers. */
  #inTurn(what, task) {
    this.turn = this.turn.then(() => this.work(what, task));
    return this.turn;
  }

  async list() {
    const known = await select(statements.concepts());
    const options = known.map(({ concept }) => new Option(concept, concept, false, concept === this.name));
    $('concept').replaceChildren(new Option('choose one', ''), ...options);
    $('concept-known').hidden = !known.length;
  }

  markOf(id) {
    return { true: 'yes', false: 'no' }[this.marks.get(id)?.positive] ?? '';
  }

  /**
   * A person's judgement; the first one of a search starts a concept. Marking the same again takes the mark back. A yes may
   * say where, by a box.
   */
  mark(id, positive, box = null) {
    return this.#inTurn(positive ? 'marking yes' : 'marking no', async () => {
      if (!this.name) {
        const suggested = this.suggest();
        if (!suggested) throw new Error('Choose a concept, or start one from a text, before you mark pictures.');
        await this.#start(suggested.name, suggested.start);
      }
      const before = this.marks.get(id);
      await this.#setMark(id, before?.positive === positive && !box ? undefined : { positive, box });
      this.#did(`${positive ? 'yes' : 'no'} of a picture`, () => this.#setMark(id, before));
    });
  }

  refine() {
    return this.#inTurn('refining', async () => {
      if (!this.name) throw new Error('Mark pictures first: refining learns from them.');
      const before = this.rounds.at(-1).round;
      await run((this.byParts() ? statements.refineByParts : statements.refine)(this.name));
      await this.#readRounds();
      const after = this.rounds.at(-1).round;
      this.#did(`round ${after}`, () => this.#revertTo(before));
      await this.showBest();
    });
  }

  /** Marks many pictures by one statement, which `statement(name)` gives. */
  markAll(statement) {
    return this.#inTurn('marking', async () => {
      if (!this.name) throw new Error('Start or choose a concept first: marks belong to one.');
      const before = new Map(this.marks);
      await run(statement(this.name));
      await this.#reread();
      const same = (id) => JSON.stringify(before.get(id)) === JSON.stringify(this.marks.get(id));
      const changed = [...this.marks.keys()].filter((id) => !same(id)).map((id) => [id, before.get(id)]);
      if (changed.length) {
        this.#did(`${plural(changed.length, 'mark')}`, async () => {
          await run(statements.labelAll(this.name, changed));
          await this.#reread();
        });
      }
    });
  }

  showBest() {
    return this.show({ kind: 'best', concept: this.name });
  }

  showNext() {
    return this.show({ kind: 'next', concept: this.name });
  }

  undo() {
    return this.#inTurn('undoing', async () => {
      const step = this.steps.at(-1);
      if (!step) return;
      await step.undo();
      this.steps.pop();
      this.#tools();
    });
  }

  #startAndShow(prompt) {
    return this.#inTurn('starting the concept', async () => {
      await this.#start(prompt, statements.startFromText(prompt, prompt));
      $('concept-prompt').value = '';
      await this.showBest();
    });
  }

  async #start(name, statement) {
    const exists = (await select(statements.concepts())).some(({ concept }) => concept === name);
    if (!exists) await run(statement);
    await this.#open(name);
    await this.list();
  }

  #choose(name) {
    return this.#inTurn('opening the concept', async () => {
      await this.#open(name);
      if (name) await this.showBest();
    });
  }

  async #open(name) {
    this.name = name;
    this.steps = [];
    const before = [...this.marks.keys()];
    const known = name ? await select(statements.labelled(name)) : [];
    this.marks = new Map(known.map(({ image_id, positive, box }) => {
      const where = JSON.parse(box);
      return [image_id, { positive: positive === 'true', box: where[2] ? where : null }]; // no width: not said
    }));
    for (const id of [...before, ...this.marks.keys()]) this.onMark(id, this.markOf(id));
    await this.#readRounds();
  }

  /** Reads marks and rounds again; what can be undone stays. */
  async #reread() {
    const { steps } = this;
    await this.#open(this.name);
    this.steps = steps;
    this.#tools();
  }

  async #setMark(id, mark) {
    if (!mark) {
      await run(statements.undoLabel(this.name, id));
      this.marks.delete(id);
    } else {
      await run(mark.box ? statements.labelPart(this.name, id, mark.box) : statements.label(this.name, id, mark.positive));
      this.marks.set(id, mark);
    }
    this.onMark(id, this.markOf(id));
    this.#tools();
  }

  async #revertTo(round) {
    await run(statements.revert(this.name, Number(round)));
    await this.#readRounds();
    await this.showBest();
  }

  #goBack(round) {
    return this.#inTurn(`going back to round ${round}`, async () => {
      const before = this.rounds.at(-1).round;
      await this.#revertTo(round);
      this.#did(`going back to round ${round}`, () => this.#revertTo(before));
    });
  }

  /** What the latest round did, whether it was worth it, and what to do next: round_changes in words and pictures. */
  async #sayChanges() {
    const { name, rounds } = this;
    $('changes').hidden = true;
    if (!name) return;
    let said = null;
    let moved = [];
    let fault = '';
    try {
      [said] = await select(statements.changes(name, TOP));
      const isStill = said.moved_in === '0' && said.moved_out === '0';
      if (!isStill) moved = await select(statements.moved(name, Number(said.before), Number(said.round), Number(said.top)));
    } catch (error) {
      fault = error.sentence ?? error.message; // said here: the status line belongs to what the grid shows
    }
    if (rounds !== this.rounds) return;
    $('changes').hidden = false;
    if (fault) {
      $('changes-title').textContent = 'What the round did is not known';
      $('moved').replaceChildren();
      $('changes-precision').textContent = $('changes-next').textContent = '';
      $('changes-why').textContent = fault;
      return;
    }
    const [before, after, top] = [Number(said.before), Number(said.round), Number(said.top)];
    const digits = (text) => Number(text).toFixed(2);
    $('changes-title').textContent = said.before === null ? `Round ${after}` : `What round ${after} did`;
    $('changes-precision').textContent = said.average_precision === null ? '' : `Average precision ${digits(said.average_precision)} on held-out labels (95 % interval ${
      digits(said.average_precision_low)} to ${digits(said.average_precision_high)}), ${digits(said.text_average_precision)} by the text alone.`;
    $('moved').replaceChildren(...(said.before === null ? [] : ['in', 'out'].map((way) => {
      const count = Number(way === 'in' ? said.moved_in : said.moved_out);
      const view = { kind: 'moved', concept: name, before, after, moved: way, top };
      return this.#movedLine(`${count} moved ${way}${way === 'in' ? 'to' : ' of'} the ${top} best`, view, count, moved.filter((row) => row.moved === way));
    })));
    $('changes-why').textContent = said.why && `Why: ${said.why}.`;
    $('changes-next').textContent = `Next: ${said.next_step}.`;
  }

  /** A button that fills the grid with the pictures that moved one way, and the most telling of them. */
  #movedLine(words, view, count, rows) {
    const line = document.createElement('div');
    const all = Object.assign(document.createElement('button'), { type: 'button', className: 'all', textContent: words, disabled: !count });
    all.addEventListener('click', () => this.show(view));
    line.append(all, ...rows.slice(0, TELLING).map((row) => {
      const thumb = Object.assign(document.createElement('button'), { type: 'button', className: 'thumb small' });
      thumb.setAttribute('aria-label', `${nameOf(row.source)}, moved ${row.moved}`);
      thumb.addEventListener('click', () => this.onOpen(row));
      load(row).then((url) => url && thumb.replaceChildren(Object.assign(new Image(), { src: url, alt: '' })), () => {});
      return thumb;
    }));
    return line;
  }

  #did(what, undo) {
    this.steps.push({ what, undo });
    this.#tools();
  }

  #tools() {
    const yes = [...this.marks.values()].filter(({ positive }) => positive).length;
    $('concept-state').textContent = this.name
      ? `“${this.name}”, round ${this.rounds.at(-1)?.round}: ${yes} yes, ${this.marks.size - yes} no`
      : 'Mark pictures yes or no: the search becomes a concept, a classifier that refining improves.';
    $('concept-tools').hidden = $('save-concept').hidden = !this.name;
    $('undo').disabled = !this.steps.length;
    $('undo').title = this.steps.length ? `undo ${this.steps.at(-1).what}` : '';
    $('concept').value = this.name;
  }

  async #readRounds() {
    this.rounds = this.name ? await select(statements.rounds(this.name)) : [];
    this.#tools();
    const isRefined = this.rounds.length > 1;
    $('rounds').hidden = !isRefined;
    const cell = (text) => Object.assign(document.createElement('td'), { textContent: text });
    $('round-rows').replaceChildren(...this.rounds.map((row, place) => {
      const line = document.createElement('tr');
      const precision = row.average_precision === null ? '' : Number(row.average_precision).toFixed(3);
      line.append(cell(row.round), cell(row.method), cell(row.labels), cell(precision), cell(''));
      if (place < this.rounds.length - 1) {
        const back = Object.assign(document.createElement('button'), { type: 'button', textContent: 'go back' });
        back.dataset.round = row.round;
        back.setAttribute('aria-label', `go back to round ${row.round}`);
        line.lastChild.append(back);
      }
      return line;
    }));
    if (isRefined) precisionPlot($('plot-precision'), this.rounds);
    this.#sayChanges(); // beside what the grid asks for: nobody waits for it
    await this.#drawScores();
  }

  async #drawScores() {
    if (!$('distribution').open || $('rounds').hidden) return;
    const round = Number(this.rounds.at(-1).round);
    const found = await this.work('counting scores', () => select(statements.distribution(this.name, round)));
    if (!found) return;
    const counts = Array.from({ length: statements.BINS }, () => 0);
    for (const { bin, images } of found) counts[Number(bin)] = Number(images);
    scorePlot($('plot-scores'), counts);
    const likely = counts.slice(statements.BINS / 2).reduce((sum, count) => sum + count, 0);
    $('scores-said').textContent = `Round ${round}: ${plural(likely, 'picture')} with a probability of 0.5 or more, ${
      plural(counts.reduce((sum, count) => sum + count, 0), 'picture')} in all.`;
  }

  async #save() {
    const rows = await this.work('saving', () => selectText(statements.exported(this.name), 'JSONEachRow'));
    if (!rows) return;
    const link = document.createElement('a');
    link.href = URL.createObjectURL(new Blob([rows], { type: 'application/x-ndjson' }));
    link.download = `${this.name.replace(/[^\p{L}\p{N}]+/gu, '-')}.concept.jsonl`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  }

  async #load() {
    const [file] = $('concept-file').files;
    $('concept-file').value = '';
    if (!file) return;
    await this.#inTurn('loading the concept', async () => {
      const rows = await file.text();
      await run(statements.imported(rows));
      await this.#open(JSON.parse(rows.split('\n')[0]).concept);
      await this.list();
      await this.showBest();
    });
  }
}
