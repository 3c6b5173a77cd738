"""How the class view's script draws: a snapshot in, elements out. All that comes from outside is set as text.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

__all__ = ["DRAWING"]

_ELEMENTS = r"""
const SVG = 'http' + '://www.w3.org/2000/svg';  // a name, not an address: nothing is asked there
function make(tag, attributes = {}, ...children) {
  const svg = ['svg', 'rect', 'text', 'path', 'line', 'pattern', 'defs', 'title'].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const HATCHES = ['', 'M0 8L8 0', 'M4 3v2', 'M0 0L8 8M8 0L0 8', 'M0 0L8 8', 'M0 4H8M4 0V8', 'M0 4H8'];
const TINTS = ['#a6cee3', '#fdd0a2', '#c7e9c0', '#dadaeb', '#fcc5c0', '#fff2ae', '#ccece6', '#e5e5e5'];
function addHatch(place) {  // pale tints under dark lines: any eye and grey print can read them
  const id = 'hatch' + place;
  if (!find(id)) {
    const tile = {id, width: 8, height: 8, patternUnits: 'userSpaceOnUse'};
    find('hatches').append(make('pattern', tile,
      make('rect', {width: 8, height: 8, fill: TINTS[place % TINTS.length]}),
      make('path', {d: HATCHES[place % HATCHES.length], stroke: '#555', 'stroke-width': 1.1})));
  }
  return `url(#${id})`;
}
document.body.append(make('svg', {width: 0, height: 0, 'aria-hidden': 'true'}, make('defs', {id: 'hatches'})));

function curve(values, top, width, height) {
  const step = width / (values.length - 1), high = Math.max(top, 1e-9);
  const lift = value => height - 1 - value / high * (height - 2);
  const points = values.map((value, n) => `${(n * step).toFixed(1)} ${lift(value).toFixed(1)}`);
  const box = {width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true'};
  const line = {d: 'M' + points.join('L'), fill: 'none', stroke: 'currentColor', 'stroke-width': 1.4};
  return make('svg', box, make('path', line));
}

function bar(share, mark, width = 70) {
  const end = Math.min(1, share) * width;
  const edge = {x: .5, y: .5, width: width - 1, height: 12, fill: 'none', stroke: 'currentColor', 'stroke-width': .6};
  const parts = [make('rect', {width: end, height: 13, fill: 'var(--fill)'}), make('rect', edge)];
  const at = {x1: mark * width, x2: mark * width, y1: 0, y2: 13, stroke: 'currentColor', 'stroke-width': 2.5};
  if (mark !== null) parts.push(make('line', at));
  return make('svg', {width, height: 13, 'aria-hidden': 'true'}, ...parts);
}
"""

_POOL = r"""
function drawPool(pool, holders) {
  const svg = find('pool'), width = svg.clientWidth || 1000, height = svg.clientHeight || 50;
  svg.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const unit = width / Math.max(1, pool.blocks);
  const held = holders.reduce((sum, one) => sum + one.blocks, 0);
  const scale = unit * Math.min(1, pool.used / Math.max(1, held));  // shared blocks are in the sum more than once
  const parts = [];
  let x = 0;
  const add = (wide, look) => { parts.push(...segment(x, wide, height, look)); x += wide; };
  for (const one of holders)
    add(one.blocks * scale, {fill: one.fill, label: one.name, told: `${one.name}: ${number(one.blocks)} blocks`});
  add(pool.used * unit - x, {fill: 'var(--soft)', label: 'not told whose', told: 'blocks whose holder is not known'});
  const kept = `${number(pool.kept)} blocks kept by the prefix cache`;
  add(pool.kept * unit, {fill: 'none', label: 'kept for reuse', told: kept, dashes: '2 4'});
  add(width - x, {fill: 'none', label: `free: ${number(pool.free)}`, told: `${number(pool.free)} blocks are free`});
  svg.replaceChildren(...parts);
  const most = holders.slice(0, 5).map(one => `${one.name} ${one.blocks}`).join(', ');
  const told = `${pool.used} of ${pool.blocks} KV blocks are in use`;
  svg.setAttribute('aria-label', told + (most ? `; most by ${most}` : ''));
}

const LETTER = 8.5, SMALL = 7;  // about as wide as one is
function segment(x, width, height, {fill, label, told, dashes = ''}) {
  if (width < .5) return [];
  const edge = {x: x + .5, y: 1, width: Math.max(.5, width - 1), height: height - 2, fill, stroke: 'currentColor'};
  const parts = [make('rect', {...edge, 'stroke-dasharray': dashes}, make('title', {}, told))];
  const letter = label.length * LETTER + 12 < width ? LETTER : SMALL;
  const short = label.slice(0, Math.floor((width - 6) / letter));  // its beginning, if it has to be
  if (!short) return parts;
  const long = short.length * letter + 2, middle = x + width / 2;
  const text = make('text', {x: middle, y: height / 2 + 5, 'text-anchor': 'middle'}, short);
  if (letter === SMALL) text.style.fontSize = '11px';
  const paper = {x: middle - long / 2, y: height / 2 - 10, width: long, height: 20, rx: 3, fill: '#fff', opacity: .85};
  if (fill === 'none') text.style.fill = 'currentColor';
  else parts.push(make('rect', paper));
  return [...parts, text];
}
"""

_ROWS = r"""
const isBusy = student => student.num_answers > 0 || student.tokens_last_minute > 0;
const QUOTAS = {tokens_per_minute: 'this minute', tokens_per_hour: 'this hour', tokens_total: 'in all'};
function tightest(student) {
  const all = Object.entries(student.quotas).filter(([name]) => name !== 'max_concurrent');
  const left = all.map(([name, {limit, left}]) => ({name, limit, left, share: left / limit}));
  return left.sort((one, two) => one.share - two.share)[0] ?? null;
}
const oldest = student => student.answers[0]?.age_seconds ?? -1;
const VALUES = {
  name: student => student.name, doing: student => student.num_answers, oldest, blocks: student => student.blocks,
  speed: student => student.tokens_per_second, share: student => student.throughput_share,
  minute: student => student.tokens_last_minute, total: student => student.tokens_total,
  quota: student => tightest(student)?.share ?? 2,
};
const byName = new Intl.Collator('en', {numeric: true}).compare;
function inOrder(students) {
  const value = VALUES[order.by], sign = order.down ? -1 : 1;
  const names = (one, two) => byName(one.name, two.name), values = (one, two) => value(one) - value(two);
  const compare = order.by === 'name' ? names : values;
  return [...students].sort((one, two) => sign * compare(one, two) || names(one, two));
}

function dots(student) {
  const most = 8, running = Math.min(most, student.running), waiting = Math.min(most - running, student.waiting);
  const more = student.running + student.waiting - running - waiting;
  const told = `${student.running} being written, ${student.waiting} waiting`;
  if (!student.running && !student.waiting) return make('span', {'aria-label': told}, '–');
  const text = '●'.repeat(running) + '○'.repeat(waiting) + (more ? ` +${more}` : '');
  return make('span', {class: 'dots', role: 'img', 'aria-label': told, title: told}, text);
}

function describeOldest(student) {
  const [answer] = student.answers;
  if (!answer) return '–';
  const seconds = answer.age_seconds;
  const age = seconds < 99.5 ? `${Math.round(seconds)} s` : `${Math.round(seconds / 60)} min`;
  return answer.tokens ? `${age}, ${number(answer.tokens)} tokens` : `${age}, no token yet`;
}

function describeQuota(student) {
  const quota = tightest(student), box = make('span', {class: 'both', style: 'justify-content: flex-start'});
  const told = quota && `${number(quota.left)} ${QUOTAS[quota.name]}`;
  if (quota) box.title = `${number(quota.left)} of ${number(quota.limit)} tokens are left (${quota.name})`;
  box.append(...(quota ? [bar(quota.share, null, 45), told] : ['no limit']));
  if (student.refused) box.append(make('span', {class: 'warn'}, `${number(student.refused)} refused`));
  return box;
}

const orDash = (value, write = number) => value ? write(value) : '–';
const both = (...parts) => make('span', {class: 'both'}, ...parts);
function row(student, scales) {
  const share = student.throughput_share;
  const size = {width: 16, height: 14}, square = make('rect', {...size, fill: student.fill});
  const swatch = make('svg', {...size, class: 'swatch', 'aria-hidden': 'true'}, square);
  const cells = [
    make('td', {class: 'left'}, dots(student)),
    make('td', {}, describeOldest(student)),
    make('td', {}, both(orDash(student.blocks), bar(student.blocks / scales.blocks, null, 50))),
    make('td', {}, both(orDash(student.tokens_per_second), curve(student.history, scales.top, 80, 15))),
    make('td', {}, both(orDash(share, percent), bar(share / scales.share, scales.equal / scales.share))),
    make('td', {}, orDash(student.tokens_last_minute)),
    make('td', {}, student.tokens_total === undefined ? '' : number(student.tokens_total)),
    make('td', {class: 'left'}, student.quotas ? describeQuota(student) : 'no roster'),
  ];
  const name = make('th', {scope: 'row', class: 'left', title: student.name}, swatch, student.name);
  return make('tr', isBusy(student) ? {} : {class: 'idle'}, name, ...cells);
}
"""

_WHOLE = r"""
const OTHERS = 'instructor and other keys';
function draw() {
  if (!shown) return;
  const names = shown.students.map(student => student.name).sort(byName);
  const places = new Map(names.map((name, place) => [name, place]));
  const students = shown.students.map(one => ({...one, fill: addHatch(places.get(one.name) % 56)}));
  const others = {name: OTHERS, num_answers: shown.others.running + shown.others.waiting, answers: [], refused: 0,
    ...shown.others, fill: 'var(--soft)'};
  const busy = students.filter(isBusy), everybody = isBusy(others) ? [...students, others] : students;
  const numBusy = busy.length + isBusy(others);
  const top = Math.max(...everybody.map(one => Math.max(...one.history)));
  const equal = 1 / Math.max(1, numBusy), most = name => Math.max(1e-9, ...everybody.map(one => one[name]));
  const scales = {top, equal, share: Math.max(2 * equal, most('throughput_share')), blocks: most('blocks')};
  drawTiles(busy.length);
  summarise(everybody.filter(isBusy), busy.length);
  drawPool(shown.pool, everybody.filter(one => one.blocks).sort((one, two) => two.blocks - one.blocks));
  const listed = inOrder(find('all').checked ? students : busy);
  const rows = listed.map(student => row(student, scales));
  if (isBusy(others)) rows.push(row(others, scales));
  find('rows').replaceChildren(...rows);
  find('idle').textContent = `show the ${students.length - busy.length} who have done nothing for a minute, too`;
  for (const head of document.querySelectorAll('th[data-by]')) {
    if (head.dataset.by === order.by) head.setAttribute('aria-sort', order.down ? 'descending' : 'ascending');
    else head.removeAttribute('aria-sort');
  }
}

function drawTiles(numBusy) {
  const big = (value, ...more) => [make('b', {}, value), ...more];
  const pool = shown.pool, share = Math.round(100 * pool.used / Math.max(1, pool.blocks));
  const speed = curve(shown.history, Math.max(...shown.history), 120, 30);
  find('tile-speed').replaceChildren(both(...big(number(shown.tokens_per_second)), speed));
  find('tile-running').replaceChildren(...big(number(shown.running), ` of ${number(shown.places)} places`));
  find('tile-waiting').replaceChildren(...big(number(shown.waiting)));
  find('tile-blocks').replaceChildren(...big(`${share} %`, ` ${number(pool.used)} of ${number(pool.blocks)}`));
  find('tile-active').replaceChildren(...big(number(numBusy), ` of ${number(shown.students.length)}`));
}

const percent = share => Math.round(100 * share) + ' %';
function summarise(busy, numStudents) {
  const by = name => [...busy].sort((one, two) => two[name] - one[name])[0];
  const first = by('throughput_share'), queue = by('waiting'), all = shown.students.length;
  const lines = [numStudents ? `${numStudents} of ${all} students are at work.` : 'No student is at work.'];
  if (first?.throughput_share) {
    const equal = percent(1 / busy.length);
    lines.push(`Most tokens go to ${first.name}: ${percent(first.throughput_share)}, an equal share is ${equal}.`);
  }
  const whose = queue?.waiting ? `, most of ${queue.name} (${number(queue.waiting)})` : '';
  if (shown.waiting) lines.push(`${number(shown.waiting)} answers wait${whose}.`);
  find('summary').textContent = lines.join(' ');
}
"""

DRAWING = _ELEMENTS + _POOL + _ROWS + _WHOLE
