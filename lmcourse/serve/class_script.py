"""What the class view does in the browser: ask the server each second, draw, and go on when it is gone and comes back.

Lesson: 5 (serving a class)
"""

from __future__ import annotations

from lmcourse.serve.class_drawing import DRAWING

__all__ = ["SCRIPT"]

_STATE = r"""
'use strict';
const EVERY_MS = 1000, LONGEST_PAUSE_MS = 5000, PATIENCE_MS = 8000, FEW = 40;
const find = id => document.getElementById(id);
const number = value => Math.round(value).toLocaleString('en');
let key = '', pause = EVERY_MS, timer = 0, shown = null, order = {by: 'minute', down: true};

function say(text, bad) {
  const state = find('state');
  if (state.textContent !== text) state.textContent = text;  // a live region: told once, not every second
  state.classList.toggle('bad', Boolean(bad));
  find('view').classList.toggle('old', Boolean(bad));
}

const clock = seconds => new Date(seconds * 1000).toLocaleTimeString('en-GB');
"""

_ASKING = r"""
const LOGGED_OUT = 'JupyterLab has logged you out, and stands between this page and the server: log in, then reload';

function askForKey(text) {
  key = '';
  find('door').hidden = false;
  find('view').hidden = true;
  say(text, true);
  find('key').focus();
}

async function look() {
  clearTimeout(timer);
  let answer;
  try {
    const how = {cache: 'no-store', redirect: 'manual', signal: AbortSignal.timeout(PATIENCE_MS)};
    answer = await fetch('../class', {headers: {Authorization: 'Bearer ' + key}, ...how});
    if (answer.type === 'opaqueredirect') return askForKey(LOGGED_OUT);  // to a page for logging in
    const body = answer.status === 403 ? await answer.json().catch(() => null) : await answer.json();
    if (answer.status === 401) return askForKey('The server does not know this key');
    if (answer.status === 403) return askForKey(body?.error?.message ?? LOGGED_OUT);  // the server always says why
    if (!answer.ok) throw new Error(body.error?.message);
    pause = EVERY_MS;
    take(body);
  } catch (error) {
    const told = answer?.status === 404 && error.message ? error.message : 'The server does not answer';
    say(`${told}; trying again. ${shown ? 'Below: as it was at ' + clock(shown.taken_at) : ''}`, true);
    pause = Math.min(2 * pause, LONGEST_PAUSE_MS);
  }
  timer = setTimeout(look, pause);
}

function take(snapshot) {
  const restarted = shown && shown.started_at !== snapshot.started_at;
  find('door').hidden = true;
  find('view').hidden = false;
  if (!shown) find('all').checked = snapshot.students.length <= FEW;
  if (restarted || !shown || find('state').classList.contains('bad'))
    say(restarted ? `The server was restarted at ${clock(snapshot.started_at)}: counts began anew` : 'Live');
  shown = snapshot;
  draw();
}

find('door').addEventListener('submit', event => {
  event.preventDefault();
  const given = find('key').value.trim();
  if (!/^[\x21-\x7e]+$/.test(given)) return say('This cannot be a key: keys are ASCII without spaces', true);
  key = given;
  find('key').value = '';
  look();
});
document.addEventListener('visibilitychange', () => { if (key && !document.hidden) look(); });
find('all').addEventListener('change', () => draw());
for (const head of document.querySelectorAll('th[data-by]')) {
  head.querySelector('button').addEventListener('click', () => {
    const by = head.dataset.by;
    order = {by, down: order.by === by ? !order.down : by !== 'name' && by !== 'quota'};
    draw();
  });
}
find('key').focus();
"""

SCRIPT = _STATE + DRAWING + _ASKING
