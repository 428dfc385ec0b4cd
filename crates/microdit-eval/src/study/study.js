'use strict';
(() => {
  const data = JSON.parse(document.getElementById('data').textContent);
  const main = document.getElementById('study');
  const FORMAT = 'microdit study votes 1';
  const QUESTIONS = [
    {key: 'better', text: 'Which is the better picture?', keys: ['1', '2', '3', '4']},
    {key: 'match', text: 'Which matches the text better?', keys: ['5', '6', '7', '8']},
  ];

  const element = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };

  // Numbers that follow from a text: FNV-1a begins a Weyl sequence that is mixed.
  const random = (text) => {
    let state = 0x811c9dc5;
    for (const byte of new TextEncoder().encode(text)) state = Math.imul(state ^ byte, 0x01000193) >>> 0;
    return () => {
      state = (state + 0x9e3779b9) >>> 0;
      let mixed = state;
      mixed = Math.imul(mixed ^ (mixed >>> 16), 0x85ebca6b);
      mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
      return ((mixed ^ (mixed >>> 16)) >>> 0) / 2 ** 32;
    };
  };

  // A voter's own order of the pairs, and of the pictures in each.
  const arranged = (voter) => {
    const next = random(`${data.study} ${voter}`);
    const order = data.pairs.map((_, i) => i);
    for (let i = order.length - 1; i > 0; i--) {
      const j = Math.floor(next() * (i + 1));
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order.map((pair) => ({pair, swapped: random(`${data.study} ${voter} ${pair}`)() < 0.5}));
  };

  // Votes are kept in the browser, where it allows that.
  const place = (voter) => `${data.study.slice(0, 60)} ${voter}`;
  let kept = true;
  const load = (voter) => {
    try { return JSON.parse(localStorage.getItem(place(voter))) ?? {}; } catch { kept = false; return {}; }
  };
  const save = (voter, votes) => {
    try { localStorage.setItem(place(voter), JSON.stringify(votes)); } catch { kept = false; }
  };

  const download = (voter, votes) => {
    const content = {format: FORMAT, study: data.study, voter, votes: Object.values(votes)};
    const blob = new Blob([JSON.stringify(content, null, 1)], {type: 'application/json'});
    const link = element('a', {href: URL.createObjectURL(blob), download: `votes-${voter.replace(/[^\p{L}\p{N}_-]+/gu, '-')}.json`});
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  };

  const welcome = () => {
    const name = element('input', {required: true, maxLength: 60, autocomplete: 'off', placeholder: 'Your name or a code'});
    name.setAttribute('aria-label', 'Your name or a code');
    const form = element('form', {}, name, element('button', {className: 'plain', textContent: 'Begin'}));
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      if (name.value.trim()) vote(name.value.trim());
    });
    main.replaceChildren(
      element('h1', {textContent: 'Which picture is better?'}),
      element('p', {textContent: `${data.pairs.length} pairs of pictures are shown, each with the text both were made from. For each pair, say which picture is better, and which matches the text better. The order is random, and your own.`}),
      element('p', {textContent: 'Your votes stay in this browser until you download them; the same name continues where you left off.'}),
      form,
    );
    name.focus();
  };

  const vote = (voter) => {
    const pairs = arranged(voter);
    const votes = load(voter);
    const isDone = ({pair}) => QUESTIONS.every(({key}) => votes[pair]?.[key]);
    const done = () => pairs.filter(isDone).length;
    let at = Math.max(0, pairs.findIndex((pair) => !isDone(pair)));
    let isOver = done() === pairs.length;

    const show = () => {
      const bar = element('div', {className: 'bar'});
      bar.append(
        element('span', {textContent: `${done()} of ${pairs.length} voted on`}),
        element('progress', {max: pairs.length, value: done()}),
        element('button', {className: 'plain', textContent: 'Download votes', onclick: () => download(voter, votes)}),
      );
      if (!kept) bar.append(element('span', {className: 'warning', textContent: 'This browser keeps nothing: download your votes before you leave.'}));
      if (isOver) {
        main.replaceChildren(
          bar,
          element('h1', {textContent: 'Thank you'}),
          element('p', {textContent: 'Download your votes, and send the file to whoever asked for them.'}),
          element('button', {className: 'plain', textContent: 'Back to the pairs', onclick: () => { isOver = false; at = pairs.length - 1; show(); }}),
        );
        return;
      }
      const {pair, swapped} = pairs[at];
      const shown = data.pairs[pair];
      const [left, right] = swapped ? [...shown.pictures].reverse() : shown.pictures;
      const picture = ({source}, name) => {
        const image = element('img', {src: source, alt: `${name} picture`});
        image.addEventListener('load', () => image.classList.toggle('small', image.naturalWidth < 200));
        return element('figure', {}, image, element('figcaption', {textContent: name}));
      };
      const choices = [['left', left.token], ['right', right.token], ['on par', 'on par'], ['neither', 'neither']];
      const questions = QUESTIONS.map(({key, text, keys}) => {
        const field = element('fieldset', {}, element('legend', {textContent: text}));
        choices.forEach(([name, value], i) => {
          const button = element('button', {className: 'vote', type: 'button', textContent: name}, element('kbd', {textContent: keys[i]}));
          button.setAttribute('aria-pressed', String(votes[pair]?.[key] === value));
          button.addEventListener('click', () => choose(key, value, left.token));
          button.dataset.key = keys[i];
          field.append(button);
        });
        return field;
      });
      const move = (by, text) => element('button', {
        className: 'plain', textContent: text, disabled: at + by < 0 || at + by >= pairs.length, onclick: () => { at += by; show(); },
      });
      const moves = element('div', {className: 'bar'}, move(-1, '← back'), element('span', {textContent: `pair ${at + 1}`}), move(1, 'skip →'));
      moves.style.marginTop = '16px';
      main.replaceChildren(
        bar,
        element('p', {className: 'prompt', textContent: `“${shown.prompt}”`}),
        element('div', {className: 'pair'}, picture(left, 'left'), picture(right, 'right')),
        ...questions,
        moves,
      );
    };

    const choose = (key, value, left) => {
      const {pair} = pairs[at];
      const before = isDone(pairs[at]);
      votes[pair] = {better: null, match: null, ...votes[pair], pair, left, [key]: value};
      save(voter, votes);
      if (!before && isDone(pairs[at])) {
        // The next one without a vote; after the last, from the first.
        const order = [...pairs.keys()].map((i) => (at + 1 + i) % pairs.length);
        const next = order.find((i) => !isDone(pairs[i]));
        if (next === undefined) isOver = true; else at = next;
      }
      show();
    };
    document.addEventListener('keydown', (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      main.querySelector(`button[data-key="${CSS.escape(event.key)}"]`)?.click();
    });
    show();
  };

  welcome();
})();
