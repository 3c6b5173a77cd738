"""How the docs page looks, and the little it does: ask the server and show the answer as it comes.

Lesson: 5 (the docs page)
"""

from __future__ import annotations

__all__ = ["SCRIPT", "STYLE"]

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881; --mark: #0a7; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 }
main { max-width: 56rem; margin: 0 auto; padding: 1rem }
nav a { margin-right: 1rem } h2 { font-size: 1.15rem; margin: 0 } h2 b { color: var(--mark); margin-right: .5rem }
section { border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; margin: 1rem 0 }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 }
td, th { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: left; vertical-align: top }
textarea, pre { width: 100%; box-sizing: border-box; font: 14px/1.4 ui-monospace, monospace }
pre { background: var(--soft); padding: .5rem; white-space: pre-wrap; overflow-wrap: anywhere }
button, input { font: inherit; padding: .2rem .8rem } summary { cursor: pointer }
"""

SCRIPT = """
const base = new URL('.', document.baseURI).href.replace(/[/]$/, '');
document.getElementById('base').textContent = base + '/v1';
for (const pre of document.querySelectorAll('pre.curl')) pre.textContent = pre.textContent.replace('BASE', base);

async function ask(form) {
  const area = form.querySelector('textarea'), out = form.querySelector('pre');
  const key = document.getElementById('key').value;
  const headers = key ? {Authorization: 'Bearer ' + key} : {};
  const request = {headers};
  if (area) {
    request.method = 'POST';
    request.body = area.value;
    headers['Content-Type'] = 'application/json';
    headers.Accept = 'text/event-stream, application/json';
  }
  out.hidden = false;
  out.textContent = '';
  const answer = await fetch(base + '/' + form.dataset.path, request);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let part = await reader.read(); !part.done; part = await reader.read()) out.textContent += part.value;
  out.textContent = answer.status + '\\n' + out.textContent;
}

for (const form of document.querySelectorAll('form')) {
  form.addEventListener('submit', event => {
    event.preventDefault();
    ask(form).catch(error => { form.querySelector('pre').textContent = String(error); });
  });
}
"""
