// Every picture of the page: filtered, sorted, opened large, marked.
class Explorer {
  constructor(root, data) {
    Object.assign(this, { root, classes: data.classes, names: data.names, total: data.total, run: data.run });
    for (const [name, array] of Object.entries(data.rows)) this[name] = array && unpacked(array);
    this.count = this.index.length;
    this.width = data.rows.shares.shape[1];
    this.pictures = new Pictures(data.pictures);
    this.heat = data.heat && { ...data.heat, predicted: unpacked(data.heat.predicted), actual: unpacked(data.heat.actual), rows: new Map(data.heat.of.map((row, place) => [row, place])) };
    this.review = data.review ?? null;
    this.marks = new Marks({ decided: this.review?.decided, found: this.review && (row => ({ quality: this.review.quality[row], kind: this.review.kind[row] })), key: data.key, total: data.total, classes: this.classes, names: this.names, index: this.index, actual: this.actual, predicted: this.predicted });
    this.form = root.querySelector('.filters');
    this.found = root.querySelector('.found');
    this.gallery = new Gallery(root, { pictures: this.pictures, caption: row => this.caption(row), open: row => this.open(row), badge: row => this.badge(row) });
    this.form.addEventListener('input', () => this.filter());
    this.form.addEventListener('submit', event => event.preventDefault());
    this.form.addEventListener('reset', () => setTimeout(() => this.filter()));
    root.querySelector('.clear').addEventListener('click', () => this.form.reset());
    root.querySelector('.to-matrix')?.addEventListener('click', event => this.matrix(event));
    this.box = new Box(document.getElementById('image'), this);
    this.tools();
    this.usual = this.values();
    this.filter(false);
    addEventListener('hashchange', () => this.follow());
    this.follow();
  }

  badge(row) {
    const [verdict, label] = this.marks.get(row);
    return this.review && verdict ? { [VERDICTS[0]]: label ? `→ ${label}` : 'left out', [VERDICTS[1]]: 'unsure', [VERDICTS[2]]: 'kept' }[verdict] : verdict;
  }

  // What the filters say, by name
  values() { return Object.fromEntries(new FormData(this.form)); }

  // The view as the part of the address behind #: the filters that are not at their start, classes by name, and the image that is open
  hash(image = null) {
    const view = new URLSearchParams();
    for (const [name, value] of Object.entries(this.values()))
      if (value !== this.usual[name]) view.set(name, ['actual', 'predicted'].includes(name) ? this.classes[value] : value);
    if (!view.size) return image === null ? '' : `#image-${image}`;
    if (image !== null) view.set('image', image);
    return `#see?${view}`;
  }

  // Writes the view into the address; a click that leads here can be gone back from
  address(image = null, way = 'replaceState') {
    try { history[way](null, '', this.hash(image) || location.pathname + location.search); } catch { /* a page in a frame has no address of its own */ }
  }

  // Shows what the address asks for
  follow() {
    const image = /^#image-(\d+)$/.exec(location.hash), view = /^#see\?(.*)$/.exec(location.hash);
    if (!image && !view) {
      if (location.hash === '' && this.box.dialog.open) this.box.dialog.close();
      return;
    }
    const asked = Object.fromEntries(new URLSearchParams(view?.[1] ?? ''));
    this.set(asked);
    this.filter(false);
    const wanted = image ? +image[1] : 'image' in asked ? +asked.image : null, row = this.marks.rowOf.get(wanted);
    if (view) this.root.querySelector('.count').scrollIntoView();
    if (row !== undefined) setTimeout(() => this.box.open(row));
    else if (this.box.dialog.open) this.box.dialog.close();
    if (wanted !== null && row === undefined) this.found.textContent += ` · image ${wanted} is not in this page`;
  }

  // Sets the filters to these values, the others to their start; what the page does not know is left out
  set(asked) {
    for (const [name, start] of Object.entries(this.usual)) {
      const field = this.form.elements[name], value = asked[name] ?? start;
      field.value = ['actual', 'predicted'].includes(name) && name in asked ? this.classes.indexOf(value) : value;
      if (field.value === '' && field.tagName === 'SELECT') field.value = start;
    }
  }

  // The way back to the cell that this view is of
  matrix(event) {
    const { actual, predicted } = this.values(), cell = document.querySelector(`.matrix [data-actual="${actual}"][data-predicted="${predicted}"]`);
    const target = cell ?? document.querySelector('.matrix [tabindex="0"], canvas.matrix');
    if (!target) return;
    event.preventDefault();
    document.getElementById('confusion').scrollIntoView();
    target.focus({ preventScroll: true });
  }

  // What is shown, in words
  sentence(count, number) {
    const { kind, actual, predicted, low, high, loss, search } = this.values();
    const images = count === 1 ? 'image' : 'images', noun = { wrong: `wrong ${images}`, right: `right ${images}`, all: images, marked: `${this.review ? 'decided' : 'marked'} ${images}`, open: `undecided ${images}` }[kind];
    const name = place => `\u2068${this.classes[place]}\u2069`;
    if (number !== null) return `${images}: the one with index ${number}, right or wrong`;
    const taken = this.review ? ', suggested' : ' taken for';
    let said = actual && predicted && actual !== predicted && kind !== 'right' ? `${kind === 'marked' ? noun : images} of ${name(actual)}${taken} ${name(predicted)}`
      : actual && actual === predicted ? `${images} of ${name(actual)} recognised`
      : `${noun}${actual ? ` of ${name(actual)}` : ''}${predicted ? `${taken} ${name(predicted)}` : ''}`;
    if (low || high) said += `, ${low || 0} to ${high || 100}% sure`;
    if (loss) said += `, loss from ${loss}`;
    if (search.trim()) said += `, “${search.trim()}” in the name`;
    return said;
  }

  quality(row) { return `quality ${this.review.quality[row]?.toFixed(3) ?? 'unknown'}`; }
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

  right(row) { return !this.review && this.actual[row] === this.predicted[row]; }
  title(row) { return this.right(row) ? this.classes[this.actual[row]] : `${this.classes[this.actual[row]]} → ${this.classes[this.predicted[row]]}`; }
  words(row) { return this.review ? `labelled ${this.classes[this.actual[row]]}, looks like ${this.classes[this.predicted[row]]}` : this.right(row) ? `${this.classes[this.actual[row]]}, recognised` : `${this.classes[this.actual[row]]} taken for ${this.classes[this.predicted[row]]}`; }
  caption(row) {
    const sure = this.review ? this.quality(row) : percent(this.confidence(row));
    const names = [this.classes[this.actual[row]], this.right(row) ? '\u00a0' : `→ ${this.classes[this.predicted[row]]}`];
    return [names, sure, `Image ${this.index[row]}: ${this.words(row)}, ${sure}${this.review ? '' : ' sure'}`];
  }

  filter(asked = true) {
    const { kind, actual, predicted, low, high, loss, order, search } = this.values();
    const words = search.trim().toLowerCase(), number = /^(0|[1-9]\d*)$/.test(words) ? +words : null;
    const kinds = { wrong: row => !this.right(row), right: row => this.right(row), all: () => true, marked: row => this.marks.get(row)[0], open: row => !this.marks.get(row)[0] };
    const rows = [];
    for (let row = 0; row < this.count; row++) {
      if (words && !(number === null ? this.names[row].toLowerCase().includes(words) : this.index[row] === number)) continue;
      if (number === null && !kinds[kind](row)) continue;
      if (actual && this.actual[row] !== +actual) continue;
      if (predicted && this.predicted[row] !== +predicted) continue;
      const sure = 100 * this.confidence(row);
      if ((low && sure < +low) || (high && sure > +high) || (loss && this.loss[row] < +loss)) continue;
      rows.push(row);
    }
    const keys = { loss: row => -this.loss[row], sure: row => -this.confidence(row), doubt: row => this.margin(row), index: row => this.index[row] };
    const values = new Map(rows.map(row => [row, keys[order](row)]));
    rows.sort((a, b) => values.get(a) - values.get(b) || a - b);
    this.found.textContent = `${rows.length.toLocaleString('en')} ${this.sentence(rows.length, number)}`;
    this.root.querySelector('.clear').disabled = !this.hash();
    this.missing(number, rows);
    this.gallery.show(rows);
    if (asked) this.address();
  }

  missing(number, rows) {
    const nothing = this.root.querySelector('.nothing');
    nothing.textContent = 'No image fits these filters.';
    if (rows.length || number === null) return;
    nothing.textContent = number >= this.total ? `There is no image ${number}: they are numbered from 0 to ${this.total - 1}.`
      : this.marks.rowOf.has(number) ? `Image ${number} does not fit the other filters.` : `Image ${number} is not in this page.`;
  }

  // Shows what a cell of the matrix or a row of a table asks for, in the order that was chosen. From the matrix the focus stays on its
  // cell; from elsewhere it goes along to the pictures
  choose(asked, from) {
    const bar = this.root.querySelector('.count');
    this.narrow(asked);
    this.address(null, 'pushState');
    const inside = from?.closest('.matrix'), { top } = bar.getBoundingClientRect();
    if (!inside || top < 0 || top > 0.75 * innerHeight) bar.scrollIntoView();
    if (!inside) this.gallery.step(0, true);
  }

  // Shows the images of some classes only
  narrow({ kind, actual, predicted }) {
    const { order } = this.values();
    this.set({ kind, actual: this.classes[actual], predicted: this.classes[predicted] });
    this.form.elements.order.value = order;
    for (const [name, value] of Object.entries({ actual, predicted })) this.form.elements[name].value = value;
    this.filter(false);
  }

  // Opens a picture among those asked for; filters that leave it out are lifted, so that the next and the previous one are there
  open(row, from, asked) {
    if (asked) this.narrow(asked);
    if (!this.gallery.rows.includes(row)) {
      this.set({});
      this.filter();
    }
    this.box.open(row, from);
  }

  tools() {
    const on = (name, act) => this.root.querySelector(`.${name}`).addEventListener('click', act);
    this.said = this.root.querySelector('.said');
    on('save', () => {
      const link = element('a', { download: `labels-${this.run.replace(/[^\p{L}\p{N}._-]+/gu, '-').slice(0, 80) || 'run'}.csv`, href: URL.createObjectURL(new Blob([this.marks.csv()], { type: 'text/csv' })) });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    });
    const file = this.root.querySelector('input[type=file]');
    on('load', () => file.click());
    file.addEventListener('change', async () => {
      if (!file.files.length) return;
      const { name, size } = file.files[0];
      try {
        if (size > 2 ** 28) throw new Error('larger than a marks file can be (256 MiB)');
        const [count, other] = this.marks.read(textOf(await file.files[0].arrayBuffer()));
        this.marked(`${count} marks read from ${name}.${other ? ` ${other} of these images ${other === 1 ? 'is' : 'are'} marked otherwise here: those marks stay as they are here.` : ''}`);
      } catch (error) {
        this.marked(`${name}, ${error instanceof TypeError ? 'not UTF-8 text' : error.message}. No mark was taken from the file.`);
      }
      file.value = '';
    });
    on('forget', () => {
      if (!confirm(`Delete all ${this.marks.size} marks?`)) return;
      this.marks.clear();
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
      explorer.address();
      if (this.from?.isConnected && !explorer.root.contains(this.from)) this.from.focus();  // where the person was
      else explorer.gallery.focus(this.row);
    });
    dialog.addEventListener('keydown', event => this.key(event));
    find('.verdict').addEventListener('change', () => { this.before = null; this.mark(); });
  }

  open(row, from) {
    this.from = from;
    this.show(row);
    if (!this.dialog.open) this.dialog.showModal();
  }

  step(by) {
    const { rows } = this.explorer.gallery, to = rows[rows.indexOf(this.row) + by];
    if (to !== undefined) this.show(to);
  }

  key(event) {
    if (event.key === 'Escape' && event.target === this.label && this.before?.row === this.row) this.restore(event);
    if (event.target.matches('select') || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) this.step(step);
    else if ('0123'.includes(event.key)) { this.verdicts[event.key].checked = true; this.mark(); }
    else if (!this.decide(event.key.toLowerCase())) return;
    event.preventDefault();
  }

  // A key that decides: accept, keep and unsure go on to the next picture, other waits for its class
  decide(key) {
    const { explorer, row } = this, verdict = { a: 1, o: 1, u: 2, k: 3 }[key];
    if (!verdict) return false;
    const place = explorer.predicted[row], same = place === explorer.actual[row];
    const [kept, label] = explorer.marks.get(row), before = { row, verdict: kept, label };
    this.verdicts[key === 'a' && same ? 3 : verdict].checked = true;
    this.mark(key === 'a' && !same ? explorer.classes[place] : '');
    if (key === 'o') { this.before = before; this.label.focus(); }
    else this.step(1);
    return true;
  }

  // Escape, before a class is chosen: as it was before the key for another class
  restore(event) {
    const { explorer, row, before } = this;
    this.before = null;
    explorer.marks.set(row, before.verdict, before.label);
    explorer.marked('');
    this.show(row);
    this.verdicts[0].focus();
    event.preventDefault();
  }

  show(row) {
    const { explorer } = this, rows = explorer.gallery.rows, place = rows.indexOf(row);
    this.row = row;
    this.title.textContent = explorer.title(row);
    const { review } = explorer, said = review ? [explorer.quality(row), review.kind[row]].filter(Boolean).join(' · ') : `loss ${explorer.loss[row].toPrecision(4)}`;
    this.about.textContent = `Image ${explorer.index[row]} · ${explorer.names[row]} · ${said}`;
    this.near(row);
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
    explorer.address(explorer.index[row]);
  }

  pictures(row) {
    const { explorer } = this, { heat } = explorer, place = heat?.rows.get(row);
    const views = [[`The image${explorer.review ? ', labelled' : ':'} ${explorer.classes[explorer.actual[row]]}`, null]];
    if (place !== undefined) {
      views.push([`Evidence for ${explorer.classes[explorer.predicted[row]]}, ${explorer.review ? 'suggested' : 'predicted'}`, heat.predicted]);
      if (explorer.actual[row] !== explorer.predicted[row]) views.push([`Evidence for ${explorer.classes[explorer.actual[row]]}, ${explorer.review ? 'given' : 'actual'}`, heat.actual]);
    }
    this.views.replaceChildren(...views.map(([words, maps]) => {
      const canvas = element('canvas');
      canvas.setAttribute('role', 'img');
      canvas.setAttribute('aria-label', `${words}; image ${explorer.index[row]}`);
      const caption = element('figcaption', { textContent: words });
      explorer.pictures.draw(canvas, row).then(() => {
        if (maps && !this.overlay(canvas, maps, place)) caption.textContent += ': no positive evidence';
      });
      return element('figure', {}, canvas, caption);
    }));
    this.dialog.querySelector('.heat').textContent = place === undefined ? 'No heatmap kept for this image.'
      : `Bright: more evidence, each map by its own peak. Stretched from ${heat.size.join('×')} places.`;
  }

  // The pictures of the suggested and of the given class that this one is nearest to
  near(row) {
    const { explorer } = this, { review } = explorer, box = this.dialog.querySelector('.near');
    box.hidden = !review?.near[row].some(place => place >= 0);
    if (box.hidden) return;
    const sides = explorer.actual[row] === explorer.predicted[row] ? [[0, 'given', explorer.actual]] : [[1, 'suggested', explorer.predicted], [0, 'given', explorer.actual]];
    box.replaceChildren(...sides.map(([side, word, classes]) => {
      const title = `Nearest ${explorer.classes[classes[row]]}, ${word}`, places = review.near[row].slice(side * review.side, (side + 1) * review.side).filter(place => place >= 0);
      return element('figure', {}, element('figcaption', { textContent: places.length ? title : `${title}: none` }), element('div', { className: 'row' }, ...places.map(place => {
        const canvas = element('canvas'), name = review.names[place - explorer.count];
        canvas.setAttribute('role', 'img');
        canvas.setAttribute('aria-label', `${explorer.classes[classes[row]]}: ${name}`);
        canvas.title = name;
        explorer.pictures.draw(canvas, place);
        return canvas;
      })));
    }));
  }

  // Lays a heatmap over a grey version of the picture; false where the map is zero everywhere
  overlay(canvas, maps, place) {
    const { height: high, width: wide } = this.explorer.heat, map = maps.subarray(place * high * wide, (place + 1) * high * wide);
    const { width, height } = canvas, scale = Math.max(1, Math.round(256 / Math.max(width, height)));
    const picture = element('canvas', { width: width * scale, height: height * scale }), small = element('canvas', { width: wide, height: high });
    const paint = picture.getContext('2d', { willReadFrequently: true });
    paint.imageSmoothingEnabled = scale === 1;
    paint.drawImage(canvas, 0, 0, picture.width, picture.height);
    const pixels = paint.getImageData(0, 0, picture.width, picture.height);
    const coarse = small.getContext('2d').createImageData(wide, high);
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
      const [one, other] = explorer.review ? ['given', 'suggested'] : ['actual', 'predicted'];
      const roles = [place === explorer.actual[row] && one, place === explorer.predicted[row] && other].filter(Boolean);
      const bar = svg('svg', { viewBox: '0 0 100 10', preserveAspectRatio: 'none', 'aria-hidden': true });
      bar.append(svg('rect', { width: Math.max(100 * share, 0.4), height: 10 }));
      const head = element('th', { scope: 'row' }, element('bdi', { textContent: explorer.classes[place] }));
      if (roles.length) head.append(' ', element('small', { textContent: roles.join(', ') }));
      return element('tr', { className: roles.join(' ').replace('given', 'actual').replace('suggested', 'predicted') }, head, element('td', { className: 'bar' }, bar), element('td', { textContent: percent(share) }));
    }));
    this.dialog.querySelector('.others').hidden = !explorer.likeliest;
  }

  mark(label = this.label.value) {
    const { explorer } = this, verdict = this.verdicts.find(choice => choice.checked)?.value ?? '';
    this.label.disabled = verdict !== VERDICTS[0];
    this.label.value = this.label.disabled ? '' : label;
    explorer.marks.set(this.row, verdict, this.label.value);
    explorer.marked('');
  }
}
