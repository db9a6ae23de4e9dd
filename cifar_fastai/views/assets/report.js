// The report of a run: what its tables and its matrix lead to.
const explorerRoot = document.getElementById('explorer-data') && document.querySelector('.explorer');
const explorer = explorerRoot ? new Explorer(explorerRoot, embedded('explorer-data')) : null;

document.addEventListener('click', event => {
  const button = event.target.closest('[data-actual], [data-image]');
  if (!button || !explorer) return;
  const { actual = '', predicted = '', image } = button.dataset;
  if (image !== undefined) {
    const [of, taken] = button.closest('[data-pair]')?.dataset.pair.split(' ') ?? [];  // the next picture is of the same pair
    if (explorer.marks.rowOf.has(+image)) explorer.open(explorer.marks.rowOf.get(+image), button.closest('li')?.querySelector('button'), of && { kind: 'wrong', actual: of, predicted: taken });
  }
  else explorer.choose({ actual, predicted, kind: actual && actual === predicted ? 'right' : 'wrong' }, button);
});

document.querySelector('.copy')?.addEventListener('click', event => {
  getSelection().selectAllChildren(document.querySelector('.command code'));
  event.target.textContent = document.execCommand('copy') ? 'Copied' : 'Selected';
});

// The matrix is one stop of the tabulator key; the arrow keys walk from cell to cell.
const table = document.querySelector('table.matrix');
if (table?.querySelector('button')) {
  const rows = [...table.tBodies[0].rows].map(row => [...row.cells].slice(1).map(cell => cell.querySelector('button')));
  let current = table.querySelector('button');
  current.tabIndex = 0;
  const take = button => {
    current.tabIndex = -1;
    current = button;
    current.tabIndex = 0;
  };
  table.addEventListener('focusin', event => { if (event.target.matches('button')) take(event.target); });
  table.addEventListener('keydown', event => {
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!by) return;
    event.preventDefault();
    let row = rows.findIndex(cells => cells.includes(current)), column = rows[row].indexOf(current);
    do { row += by[0]; column += by[1]; } while (rows[row] && column >= 0 && column < rows[row].length && !rows[row][column]);
    rows[row]?.[column]?.focus();
  });
}

// Tables whose heads are buttons are sorted by them.
for (const table of document.querySelectorAll('table.sortable')) {
  const value = (row, column) => {
    const text = row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    return text === '' || isNaN(text) ? text : +text;
  };
  table.tHead.addEventListener('click', event => {
    const head = event.target.closest('th');
    if (!event.target.closest('button')) return;
    const down = head.getAttribute('aria-sort') !== 'descending', column = head.cellIndex;
    for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a, column), value(b, column)];
      return (x < y ? -1 : x > y ? 1 : 0) * (down ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  });
}

// A matrix of many classes is drawn; its cells are read under the pointer or with the arrow keys.
class LargeMatrix {
  constructor(canvas, { classes, matrix }) {
    Object.assign(this, { canvas, classes, counts: unpacked(matrix), side: classes.length, at: [0, 0] });
    this.output = canvas.parentElement.querySelector('.readout');
    this.most = this.counts.reduce((most, value, i) => i % (this.side + 1) ? Math.max(most, value) : most, 1);
    this.cell = Math.max(4, Math.floor(1000 / this.side));
    canvas.width = canvas.height = this.cell * this.side;
    this.draw();
    const dark = matchMedia('(prefers-color-scheme: dark)');
    dark.addEventListener('change', () => this.draw());
    canvas.addEventListener('pointermove', event => this.show(this.under(event)));
    canvas.addEventListener('click', event => this.choose(this.under(event)));
    canvas.addEventListener('keydown', event => this.key(event));
    canvas.addEventListener('blur', () => this.draw());
  }

  under(event) {
    const box = this.canvas.getBoundingClientRect();
    const place = (from, at, size) => Math.max(0, Math.min(this.side - 1, Math.floor((at - from) / size * this.side)));
    return [place(box.top, event.clientY, box.height), place(box.left, event.clientX, box.width)];
  }

  draw() {
    const paint = this.canvas.getContext('2d'), style = getComputedStyle(this.canvas);
    const colour = name => style.getPropertyValue(name);
    paint.fillStyle = colour('--surface');
    paint.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.counts.forEach((count, i) => {
      if (!count) return;
      const row = Math.floor(i / this.side), column = i % this.side;
      paint.globalAlpha = row === column ? 0.5 : 0.25 + 0.75 * Math.sqrt(count / this.most);
      paint.fillStyle = colour(row === column ? '--right' : '--wrong');
      paint.fillRect(column * this.cell, row * this.cell, this.cell - 1, this.cell - 1);
    });
    paint.globalAlpha = 1;
  }

  show([row, column], held = false) {
    this.at = [row, column];
    this.draw();
    const paint = this.canvas.getContext('2d');
    paint.strokeStyle = getComputedStyle(this.canvas).getPropertyValue('--ink');
    paint.lineWidth = 2;
    paint.strokeRect(column * this.cell, row * this.cell, this.cell - 1, this.cell - 1);
    const count = this.counts[row * this.side + column];
    this.output.textContent = `${this.classes[row]} ${row === column ? 'recognised' : `taken for ${this.classes[column]}`}: ${count} ${count === 1 ? 'image' : 'images'}`;
    if (held) this.output.setAttribute('aria-live', 'polite');
  }

  key(event) {
    const [row, column] = this.at, clamp = value => Math.max(0, Math.min(this.side - 1, value));
    const by = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (by) this.show([clamp(row + by[0]), clamp(column + by[1])], true);
    else if (event.key === 'Enter') this.choose(this.at);
    else return;
    event.preventDefault();
  }

  choose([row, column]) {
    if (explorer && this.counts[row * this.side + column]) explorer.choose({ actual: String(row), predicted: String(column), kind: row === column ? 'right' : 'wrong' }, this.canvas);
  }
}

const large = document.querySelector('canvas.matrix');
if (large) new LargeMatrix(large, embedded('matrix-data'));
