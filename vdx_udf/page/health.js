// The health of a data set: a table of what is odd, each count a way to its pictures in the grid, and a button for what nobody looked
// for yet.

import { Sql, run, select } from './sql.js';
import * as statements from './statements.js';

const element = (tag, properties = {}) => Object.assign(document.createElement(tag), properties);

export class Health {
  /** `work`, `show` and `say` are the page's; `dataset()` is the chosen one, '' for all. */
  constructor(body, { work, show, say, dataset }) {
    Object.assign(this, { body, work, show, say, dataset });
    this.abort = new AbortController();
  }

  /** Reads the table; the last one asked for wins. */
  async read() {
    this.abort.abort();
    this.abort = new AbortController();
    const { signal } = this.abort;
    this.body.setAttribute('aria-busy', 'true');
    const rows = await this.work('reading what is odd', () => select(statements.health(this.dataset()), { signal }));
    if (signal.aborted) return;
    this.body.removeAttribute('aria-busy');
    this.body.replaceChildren(...(rows ?? []).map((row) => this.#line(row)));
    if (rows) this.say(`${rows.filter(({ images }) => Number(images)).length} of ${rows.length} kinds of issues found`);
  }

  #line({ issue, means, images, share, statement }) {
    const line = element('tr');
    const counted = element('td');
    if (images === null) counted.append('not looked for ');
    else if (images === '0') counted.append('0');
    else counted.append(this.#button(images, `${images} ${images === '1' ? 'picture' : 'pictures'}: ${issue}`, () => this.show({ kind: 'health', issue })));
    if (statement.startsWith('INSERT')) counted.append(' ', this.#button('Look', `Look for: ${issue}`, () => this.#look(issue, statement)));
    line.append(
      element('th', { scope: 'row', textContent: issue }),
      counted,
      element('td', { className: 'share', textContent: share === null || images === '0' ? '' : `${(100 * share).toFixed(1)} %` }),
      element('td', { className: 'hint', textContent: means }),
    );
    return line;
  }

  #button(textContent, label, onClick) {
    const button = element('button', { type: 'button', textContent });
    button.setAttribute('aria-label', label);
    button.addEventListener('click', onClick);
    return button;
  }

  /** Runs the statement that the view `health` names. */
  async #look(issue, statement) {
    await this.work(`looking for: ${issue}`, () => run(new Sql(statement)));
    await this.read();
  }
}
