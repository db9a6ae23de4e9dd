// What a person says of an image: kept in the browser, saved as CSV, read back by the rules of marks.py.
const VERDICTS = ['label looks wrong', 'ambiguous', "model's fault"];
const COLUMNS = ['index', 'name', 'given', 'suggested', 'quality', 'kind', 'label'];
const OLD_COLUMNS = ['index', 'name', 'actual', 'predicted', 'verdict', 'suggested_label']; // of files that earlier versions wrote
const DROP = '(drop)', UNSURE = '(unsure)';

// What a mark decides about a label, and the mark that a decision is
const decision = (verdict, label, given) => verdict === VERDICTS[0] ? label || DROP : verdict === VERDICTS[1] ? UNSURE : given;
const verdictOf = (label, given) => label === UNSURE ? [VERDICTS[1], ''] : label === given ? [VERDICTS[2], ''] : [VERDICTS[0], label === DROP ? '' : label];

const quoted = text => /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
const shown = text => `'${text.length > 80 ? text.slice(0, 79) + '…' : text}'`;

// The text of a file in UTF-8, or in UTF-16 with its mark
const textOf = bytes => {
  const [first, second] = new Uint8Array(bytes);
  const encoding = first === 255 && second === 254 ? 'utf-16le' : first === 254 && second === 255 ? 'utf-16be' : 'utf-8';
  return new TextDecoder(encoding, { fatal: true }).decode(bytes);
};

// The rows of a CSV file as a spreadsheet saves it, each with the line that it begins on; what is empty, or beside the table, is left out
const csvRows = text => {
  const rows = [], own = /^sep=([^\r\n]?)\r?(\n|$)/.exec(text);  // a line of Excel's
  if (own) text = text.slice(own[0].length);
  const titles = text.slice(0, 2 ** 16).split(/[\r\n]/, 1)[0].replaceAll('"', '');
  const mark = own?.[1] || [',', ';', '\t'].find(mark => titles.split(mark).includes('name')) || ',';
  let cells = [], cell = '', inside = false, was = false, line = own ? 2 : 1, begun = line;
  const end = () => {
    cells.push(cell);
    while (cells.length && !cells.at(-1) && (!rows.length || cells.length > rows[0][1].length)) cells.pop();
    if (cells.some(Boolean)) rows.push([begun, cells]);
    [cells, cell, was, begun] = [[], '', false, line];
  };
  for (let i = 0; i < text.length; i++) {
    const letter = text[i];
    if (letter === '\n' || (letter === '\r' && text[i + 1] !== '\n')) line++;
    if (inside) {
      if (letter !== '"') cell += letter;
      else if (text[i + 1] === '"') { cell += '"'; i++; }
      else {
        inside = false;
        if (i + 1 < text.length && !`${mark}\r\n`.includes(text[i + 1])) throw new Error(`line ${begun}: not CSV (a quote in the middle of a cell)`);
      }
    } else if (letter === '"' && !cell && !was) inside = was = true;
    else if (letter === mark) { cells.push(cell); [cell, was] = ['', false]; }
    else if (letter === '\n' || letter === '\r') {
      if (letter === '\r' && text[i + 1] === '\n') { line++; i++; }
      end();
      begun = line;
    } else cell += letter;
  }
  if (inside) throw new Error(`line ${begun}: not CSV (a quote that does not end)`);
  if (cell || cells.length || was) end();
  return rows;
};

class Marks {
  // images: { key, total, classes, names, index, actual, predicted } with a place for each row of the page
  constructor(images) {
    Object.assign(this, images);
    this.rowOf = new Map(Array.from(this.index, (index, row) => [index, row]));
    this.place = `cifar_fastai marks ${this.key}`;
    this.kept = new Map();
    this.lasting = true;
    try {
      for (const [index, verdict, label] of JSON.parse(localStorage.getItem(this.place)) ?? this.decided ?? [])
        if (this.rowOf.has(index) && VERDICTS.includes(verdict)) this.kept.set(index, [verdict, this.classes.includes(label) ? label : '']);
    } catch { this.lasting = false; }
  }

  get(row) { return this.kept.get(this.index[row]) ?? ['', '']; }
  get size() { return this.kept.size; }

  set(row, verdict, label = '') {
    if (verdict) this.kept.set(this.index[row], [verdict, verdict === VERDICTS[0] ? label : '']);
    else this.kept.delete(this.index[row]);
    this.keep();
  }

  keep() {
    try {
      localStorage.setItem(this.place, JSON.stringify(Array.from(this.kept, ([index, mark]) => [index, ...mark])));
      this.lasting = true;
    } catch { this.lasting = false; }
  }

  csv() {
    const rows = [...this.kept].sort(([a], [b]) => a - b).map(([index, [verdict, label]]) => {
      const row = this.rowOf.get(index);
      const given = this.classes[this.actual[row]], { quality, kind = '' } = this.found?.(row) ?? {};
      return [String(index), this.names[row], given, this.classes[this.predicted[row]], String(quality ?? ''), kind, decision(verdict, label, given)];
    });
    return [COLUMNS, ...rows].map(cells => cells.map(quoted).join(',') + '\r\n').join('');
  }

  clear() {
    this.kept = new Map();
    this.keep();
  }

  // Adds the marks of a file to those that are there, or throws and takes none; where both mark an image, that of the page stays.
  // Gives how many the file has, and how many of them differ from what stays
  read(text) {
    const rows = csvRows(text.replace(/^\uFEFF/, ''));
    const [first, header] = rows.shift() ?? [1, []];
    if (![COLUMNS, OLD_COLUMNS].some(columns => header.join() === columns.join())) throw new Error(`line ${first}: the first line must be ${COLUMNS.join()}`);
    const names = new Set(this.names), found = new Map(), lines = new Map(), old = header.length === OLD_COLUMNS.length;
    for (const [line, row] of rows) {
      const refuse = why => { throw new Error(`line ${line}: ${why}`); };
      if (row.length !== header.length) refuse(`${row.length} cells, not ${header.length}`);
      const cells = old ? row : this.asMark(row, refuse);
      if (!cells) continue;
      const index = this.checked(cells, names, refuse);
      if (found.has(index)) refuse(`image ${index} is marked twice, first on line ${lines.get(index)}`);
      found.set(index, [cells[4], cells[5]]);
      lines.set(index, line);
    }
    const other = [...found].filter(([index, mark]) => this.kept.has(index) && this.kept.get(index).join() !== mark.join()).length;
    this.kept = new Map([...found, ...this.kept]);
    this.keep();
    return [found.size, other];
  }

  // A row of a labels.csv as the cells of a mark; null where nobody has decided
  asMark([index, name, given, suggested, , , label], refuse) {
    if (!label) return null;
    if (!given && label !== DROP && label !== UNSURE) refuse('the given label is empty');
    return [index, name, given, suggested || given, ...verdictOf(label, given)];
  }

  checked(cells, names, refuse) {
    const [number, name, actual, predicted, verdict, label] = cells;
    const whole = this.names.length < this.total;
    if (!names.has(name)) refuse(`there is no image named ${shown(name)}${whole ? ' in this page' : ''}`);
    if (!/^[0-9]{1,9}$/.test(number) || +number >= this.total) refuse(`index ${shown(number)} is not a whole number from 0 to ${this.total - 1}`);
    const row = this.rowOf.get(+number);
    if (row === undefined) refuse(`image ${number} is not in this page`);
    if (this.names[row] !== name) refuse(`index ${number} is ${shown(this.names[row])}, not ${shown(name)}`);
    for (const value of label ? [actual, predicted, label] : [actual, predicted])
      if (!this.classes.includes(value)) refuse(`unknown class ${shown(value)}`);
    if (this.classes[this.actual[row]] !== actual)
      refuse(`image ${number} has the label ${shown(this.classes[this.actual[row]])}, not ${shown(actual)}: the marks are of other data`);
    if (!VERDICTS.includes(verdict)) refuse(`unknown verdict ${shown(verdict)}; one of: ${VERDICTS.join(', ')}`);
    if (label && verdict !== VERDICTS[0]) refuse(`a suggested label goes with '${VERDICTS[0]}' only, not with '${verdict}'`);
    if (label && label === actual) refuse(`the suggested label ${shown(label)} is the label that the image has`);
    return +number;
  }
}
