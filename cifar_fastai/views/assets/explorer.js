// Every picture of the page: filtered, sorted, opened large, marked.
class Explorer {
  constructor(root, data) {
    Object.assign(this, { root, classes: data.classes, names: data.names, total: data.total });
    for (const [name, array] of Object.entries(data.rows)) this[name] = array && unpacked(array);
    this.count = this.index.length;
    this.width = data.rows.shares.shape[1];
    this.pictures = new Pictures(data.pictures);
    this.heat = data.heat && { ...data.heat, predicted: unpacked(data.heat.predicted), actual: unpacked(data.heat.actual), rows: new Map(data.heat.of.map((row, place) => [row, place])) };
    this.marks = new Marks({ key: data.key, total: data.total, classes: this.classes, names: this.names, index: this.index, actual: this.actual, predicted: this.predicted });
    this.form = root.querySelector('.filters');
    this.found = root.querySelector('.found');
    this.gallery = new Gallery(root, { pictures: this.pictures, caption: row => this.caption(row), open: row => this.open(row), badge: row => this.marks.get(row)[0] });
    this.form.addEventListener('input', () => this.filter());
    this.form.addEventListener('submit', event => event.preventDefault());
    this.form.addEventListener('reset', () => setTimeout(() => this.filter()));
    this.box = new Box(document.getElementById('image'), this);
    this.tools();
    this.filter();
  }

  confidence(row) {
    let most = 0;
    for (let i = row * this.width; i < (row + 1) * this.width; i++) if (this.shares[i] > most) most = this.shares[i];
    return most / 65535;
  }

  margin(row) {
    const [first, second = 0] = [...this.shares.subarray(row * this.width, (row + 1) * this.width)].sort((a, b) => b - a);
    return first - second;
  }

  // Each class that the page knows a probability of: [class, share], in the order of the classes, or the likeliest first
  probabilities(row) {
    return Array.from({ length: this.width }, (_, i) => [this.likeliest ? this.likeliest[row * this.width + i] : i, this.shares[row * this.width + i] / 65535]);
  }

  right(row) { return this.actual[row] === this.predicted[row]; }
  title(row) { return this.right(row) ? this.classes[this.actual[row]] : `${this.classes[this.actual[row]]} → ${this.classes[this.predicted[row]]}`; }
  words(row) { return this.right(row) ? `${this.classes[this.actual[row]]}, recognised` : `${this.classes[this.actual[row]]} taken for ${this.classes[this.predicted[row]]}`; }
  caption(row) {
    const sure = percent(this.confidence(row));
    const names = [this.classes[this.actual[row]], this.right(row) ? '\u00a0' : `→ ${this.classes[this.predicted[row]]}`];
    return [names, sure, `Image ${this.index[row]}: ${this.words(row)}, ${sure} sure`];
  }

  filter() {
    const { kind, actual, predicted, low, high, loss, order, search } = Object.fromEntries(new FormData(this.form));
    const words = search.trim().toLowerCase(), number = /^(0|[1-9]\d*)$/.test(words) ? +words : null;
    const kinds = { wrong: row => !this.right(row), right: row => this.right(row), all: () => true, marked: row => this.marks.get(row)[0] };
    const rows = [];
    for (let row = 0; row < this.count; row++) {
      if (words && !(number === null ? this.names[row].toLowerCase().includes(words) : this.index[row] === number)) continue;
      if (!words && !kinds[kind](row)) continue;
      if (actual && this.actual[row] !== +actual) continue;
      if (predicted && this.predicted[row] !== +predicted) continue;
      const sure = 100 * this.confidence(row);
      if ((low && sure < +low) || (high && sure > +high) || (loss && this.loss[row] < +loss)) continue;
      rows.push(row);
    }
    const keys = { loss: row => -this.loss[row], sure: row => -this.confidence(row), doubt: row => this.margin(row), index: row => this.index[row] };
    const values = new Map(rows.map(row => [row, keys[order](row)]));
    rows.sort((a, b) => values.get(a) - values.get(b) || a - b);
    this.found.textContent = `${rows.length.toLocaleString('en')} ${rows.length === 1 ? 'image' : 'images'}`;
    this.missing(number, rows);
    this.gallery.show(rows);
  }

  missing(number, rows) {
    const nothing = this.root.querySelector('.nothing');
    nothing.textContent = 'No image fits these filters.';
    if (rows.length || number === null) return;
    nothing.textContent = number >= this.total ? `There is no image ${number}: they are numbered from 0 to ${this.total - 1}.`
      : this.marks.rowOf.has(number) ? `Image ${number} does not fit the other filters.` : `Image ${number} is not in this page.`;
  }

  // Sets the filters as a cell of the matrix or a row of a table asks, and brings the pictures into view
  choose(values) {
    this.form.reset();
    for (const [name, value] of Object.entries(values)) this.form.elements[name].value = value;
    this.filter();
    this.root.querySelector('.count').scrollIntoView();
    this.gallery.step(0, true);
  }

  open(row) { this.box.open(row); }

  tools() {
    const on = (name, act) => this.root.querySelector(`.${name}`).addEventListener('click', act);
    this.said = this.root.querySelector('.said');
    on('save', () => {
      const link = element('a', { download: 'marks.csv', href: URL.createObjectURL(new Blob([this.marks.csv()], { type: 'text/csv' })) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
    const file = this.root.querySelector('input[type=file]');
    on('load', () => file.click());
    file.addEventListener('change', async () => {
      if (!file.files.length) return;
      const { name, size } = file.files[0];
      try {
        if (size > 2 ** 25) throw new Error('larger than a marks file can be (32 MiB)');
        this.marks.read(new TextDecoder('utf-8', { fatal: true }).decode(await file.files[0].arrayBuffer()));
        this.marked(`${this.marks.size} marks read from ${name}.`);
      } catch (error) {
        this.marked(`${name}, ${error instanceof TypeError ? 'not UTF-8 text' : error.message}. No mark was taken from the file.`);
      }
      file.value = '';
    });
    on('forget', () => {
      if (!confirm(`Forget all ${this.marks.size} marks?`)) return;
      this.marks.read(COLUMNS.join());
      this.marked('No marks.');
    });
    this.marked('');
  }

  // The marks have changed: what the page says of them follows
  marked(text) {
    const count = this.marks.size;
    this.root.querySelector('.marked').textContent = count === 1 ? '1 mark' : `${count} marks`;
    this.root.querySelector('.save').disabled = this.root.querySelector('.forget').disabled = !count;
    this.said.textContent = text + (this.marks.lasting ? '' : ' This browser does not keep marks for this page: save them as CSV.');
    this.gallery.refresh();
  }
}

// One image, opened large.
class Box {
  constructor(dialog, explorer) {
    Object.assign(this, { dialog, explorer });
    const find = name => dialog.querySelector(name);
    [this.title, this.about, this.views, this.bars, this.place] = ['h2', '.about', '.views', '.bars tbody', '.place'].map(find);
    [this.verdicts, this.label] = [[...dialog.querySelectorAll('[name=verdict]')], find('[name=label]')];
    find('.before').addEventListener('click', () => this.step(-1));
    find('.after').addEventListener('click', () => this.step(1));
    find('.close').addEventListener('click', () => dialog.close());
    dialog.addEventListener('click', event => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener('close', () => {
      this.address('');
      explorer.gallery.focus(this.row);
    });
    dialog.addEventListener('keydown', event => this.key(event));
    find('.verdict').addEventListener('change', () => this.mark());
    const wanted = /^#image-(\d+)$/.exec(location.hash);
    if (wanted && explorer.marks.rowOf.has(+wanted[1])) setTimeout(() => this.open(explorer.marks.rowOf.get(+wanted[1])));
  }

  address(hash) {
    try { history.replaceState(null, '', hash || location.pathname + location.search); } catch { /* a page in a frame has no address of its own */ }
  }

  open(row) {
    this.show(row);
    if (!this.dialog.open) this.dialog.showModal();
  }

  step(by) {
    const { rows } = this.explorer.gallery, to = rows[rows.indexOf(this.row) + by];
    if (to !== undefined) this.show(to);
  }

  key(event) {
    if (event.target.matches('select') || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) this.step(step);
    else if ('0123'.includes(event.key)) { this.verdicts[event.key].checked = true; this.mark(); }
    else return;
    event.preventDefault();
  }

  show(row) {
    const { explorer } = this, rows = explorer.gallery.rows, place = rows.indexOf(row);
    this.row = row;
    this.title.textContent = explorer.title(row);
    this.about.textContent = `Image ${explorer.index[row]} · ${explorer.names[row]} · loss ${explorer.loss[row].toPrecision(4)}`;
    this.place.textContent = place < 0 ? '' : `${place + 1} of ${rows.length}`;
    this.dialog.querySelector('.before').disabled = place <= 0;
    this.dialog.querySelector('.after').disabled = place < 0 || place >= rows.length - 1;
    this.pictures(row);
    this.probabilities(row);
    const [verdict, label] = explorer.marks.get(row);
    for (const choice of this.verdicts) choice.checked = choice.value === verdict;
    this.label.value = label;
    for (const option of this.label.options) option.hidden = option.disabled = option.value === explorer.classes[explorer.actual[row]];
    this.label.disabled = verdict !== VERDICTS[0];
    this.address(`#image-${explorer.index[row]}`);
  }

  pictures(row) {
    const { explorer } = this, { heat } = explorer, place = heat?.rows.get(row);
    const views = [[`The image: ${explorer.classes[explorer.actual[row]]}`, null]];
    if (place !== undefined) {
      views.push([`Evidence for ${explorer.classes[explorer.predicted[row]]}, predicted`, heat.predicted]);
      if (!explorer.right(row)) views.push([`Evidence for ${explorer.classes[explorer.actual[row]]}, actual`, heat.actual]);
    }
    this.views.replaceChildren(...views.map(([words, maps]) => {
      const canvas = element('canvas');
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', `${words}; image ${explorer.index[row]}`);
      const caption = element('figcaption', { textContent: words });
      explorer.pictures.draw(canvas, row).then(() => {
        if (maps && !this.overlay(canvas, maps, place)) caption.textContent += ': none, a dead map';
      });
      return element('figure', {}, canvas, caption);
    }));
    this.dialog.querySelector('.heat').hidden = place === undefined;
  }

  // Lays a heatmap over a grey version of the picture; false where the map is zero everywhere
  overlay(canvas, maps, place) {
    const { side } = this.explorer.heat, map = maps.subarray(place * side * side, (place + 1) * side * side);
    const { width, height } = canvas, scale = Math.max(1, Math.round(256 / Math.max(width, height)));
    const picture = element('canvas', { width: width * scale, height: height * scale }), small = element('canvas', { width: side, height: side });
    const paint = picture.getContext('2d', { willReadFrequently: true });
    paint.imageSmoothingEnabled = scale === 1;
    paint.drawImage(canvas, 0, 0, picture.width, picture.height);
    const pixels = paint.getImageData(0, 0, picture.width, picture.height);
    const coarse = small.getContext('2d').createImageData(side, side);
    map.forEach((value, i) => coarse.data.set([value, value, value, 255], 4 * i));
    small.getContext('2d').putImageData(coarse, 0, 0);
    paint.imageSmoothingEnabled = true;
    paint.imageSmoothingQuality = 'high';
    paint.drawImage(small, 0, 0, picture.width, picture.height);
    const heat = paint.getImageData(0, 0, picture.width, picture.height), alive = map.some(value => value > 0);
    for (let i = 0; i < pixels.data.length; i += 4) {
      const grey = 0.299 * pixels.data[i] + 0.587 * pixels.data[i + 1] + 0.114 * pixels.data[i + 2];
      const colour = alive ? viridis(heat.data[i] / 255) : [grey, grey, grey];
      for (let c = 0; c < 3; c++) pixels.data[i + c] = (grey + colour[c]) / 2;
    }
    Object.assign(canvas, { width: picture.width, height: picture.height });
    canvas.getContext('2d').putImageData(pixels, 0, 0);
    return alive;
  }

  probabilities(row) {
    const { explorer } = this;
    this.bars.replaceChildren(...explorer.probabilities(row).map(([place, share]) => {
      const roles = [place === explorer.actual[row] && 'actual', place === explorer.predicted[row] && 'predicted'].filter(Boolean);
      const bar = svg('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': true });
      bar.append(svg('rect', { width: Math.max(100 * share, 0.4), height: 10 }));
      const head = element('th', { scope: 'row' }, element('bdi', { textContent: explorer.classes[place] }));
      if (roles.length) head.append(' ', element('small', { textContent: roles.join(', ') }));
      return element('tr', { className: roles.join(' ') }, head, element('td', { className: 'bar' }, bar), element('td', { textContent: percent(share) }));
    }));
    this.dialog.querySelector('.others').hidden = !explorer.likeliest;
  }

  mark() {
    const { explorer } = this, verdict = this.verdicts.find(choice => choice.checked)?.value ?? '';
    this.label.disabled = verdict !== VERDICTS[0];
    if (this.label.disabled) this.label.value = '';
    explorer.marks.set(this.row, verdict, this.label.value);
    explorer.marked('');
  }
}
