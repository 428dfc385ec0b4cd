// Opens pages of `microdit report` and `microdit study` in Chromium, uses them as people do, and takes pictures of them.
//
//   npm install playwright-core && node benches/pages.mjs OUT REPORT.html... --study STUDY.html
//
// It ends with status 1 if a page complains in the console, asks for anything from elsewhere, or does not do what it should.
import {createRequire} from 'node:module';
import {mkdirSync, readFileSync} from 'node:fs';
import {basename, join, resolve} from 'node:path';
import {pathToFileURL} from 'node:url';

// From the directory it is called in, where playwright-core is installed.
const {chromium} = createRequire(join(process.cwd(), 'package.json'))('playwright-core');
const [out, ...rest] = process.argv.slice(2);
const at = rest.indexOf('--study');
const [reports, study] = at < 0 ? [rest, undefined] : [rest.slice(0, at), rest[at + 1]];
mkdirSync(out, {recursive: true});
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
});
const wrong = [];
const expect = (holds, what) => { if (!holds) wrong.push(what); console.log(holds ? 'ok   ' : 'WRONG', what); };

// A page that tells what it complains of and what it asks for.
const open = async (path, options = {}) => {
  const context = await browser.newContext({viewport: {width: 1280, height: 900}, acceptDownloads: true, ...options});
  const page = await context.newPage();
  const name = basename(path);
  page.on('console', (message) => wrong.push(`${name}: the console says: ${message.text()}`));
  page.on('pageerror', (error) => wrong.push(`${name}: ${error.message}`));
  page.on('request', (request) => {
    if (!/^(file|data|blob):/.test(request.url())) wrong.push(`${name}: it asks for ${request.url()}`);
  });
  await page.goto(pathToFileURL(resolve(path)).href);
  return page;
};

const looks = [
  ['light', {colorScheme: 'light'}],
  ['dark', {colorScheme: 'dark'}],
  ['narrow', {colorScheme: 'light', viewport: {width: 390, height: 844}}],
  ['narrow-dark', {colorScheme: 'dark', viewport: {width: 390, height: 844}}],
];
for (const path of [...reports, ...(study ? [study] : [])]) {
  for (const [look, options] of looks) {
    const page = await open(path, options);
    const [width, view] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
    expect(width <= view, `${basename(path)}, ${look}: nothing sticks out (${width} of ${view})`);
    await page.screenshot({path: join(out, `${basename(path, '.html')}-${look}.png`), fullPage: true});
    await page.context().close();
  }
}

for (const path of reports) {
  const page = await open(path);
  const name = basename(path);
  const plot = page.locator('svg.plot').first();
  if (await plot.count()) {
    await plot.scrollIntoViewIfNeeded();
    const curve = plot.locator('path.curve').last();
    const ticks = () => page.locator('.ticks').first().locator('text').allTextContents();
    const [d, before] = [await curve.getAttribute('d'), await ticks()];
    const box = await plot.locator('.frame').boundingBox();
    const [x, y] = [box.x + box.width * 0.3, box.y + box.height / 2];
    await page.mouse.move(x, y);
    const output = page.locator('figure output').first();
    expect((await output.textContent()).startsWith('at '), `${name}: the pointer reads values: ${await output.textContent()}`);
    await page.mouse.down();
    await page.mouse.move(x + box.width * 0.3, y + 3, {steps: 5});
    await page.screenshot({path: join(out, `${basename(path, '.html')}-selection.png`)});
    await page.mouse.up();
    const after = await ticks();
    expect(String(after) !== String(before), `${name}: a drag zooms: ${after}`);
    await page.screenshot({path: join(out, `${basename(path, '.html')}-zoomed.png`)});
    await page.mouse.dblclick(x, y);
    expect(await curve.getAttribute('d') === d && String(await ticks()) === String(before), `${name}: a double click undoes it`);
    await plot.locator('xpath=..').focus();
    await page.keyboard.press('+');
    expect(String(await ticks()) !== String(before), `${name}: + zooms`);
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('0');
    expect(String(await ticks()) === String(before), `${name}: 0 undoes it`);
  }
  const table = page.locator('table').first();
  if (await table.count()) {
    const column = async () => table.locator('tbody tr td:first-child').allTextContents();
    await table.locator('th button').first().click();
    const up = await column();
    await table.locator('th button').first().click();
    const down = await column();
    expect(String([...down].reverse()) === String(up), `${name}: a head sorts, and the other way round: ${up}`);
  }
}

if (study) {
  const page = await open(study);
  const data = JSON.parse(await page.locator('#data').textContent());
  const order = async (voter) => {
    await page.reload();
    await page.getByRole('textbox').fill(voter);
    await page.getByRole('button', {name: 'Begin'}).click();
    return page.locator('.prompt').textContent();
  };
  await order('Ann');
  await page.screenshot({path: join(out, 'study-pair.png')});
  const left = [];
  for (let i = 0; i < data.pairs.length; i++) {
    left.push(await page.locator('.pair img').first().getAttribute('src'));
    await page.keyboard.press('1');
    if (i === 0) {
      // What is half done is there again after a reload.
      await order('Ann');
      expect(await page.locator('button[aria-pressed=true]').count() === 1, 'study: a vote outlives a reload');
    }
    await page.getByRole('button', {name: 'on par'}).last().click();
  }
  expect(await page.getByRole('heading', {name: 'Thank you'}).count() === 1, 'study: it ends');
  await page.screenshot({path: join(out, 'study-end.png')});
  const [download] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', {name: 'Download votes'}).click()]);
  const file = join(out, 'votes-Ann.json');
  await download.saveAs(file);
  const votes = JSON.parse(readFileSync(file, 'utf8'));
  expect(votes.voter === 'Ann' && votes.votes.length === data.pairs.length, 'study: every pair has a vote');
  const sources = new Map(data.pairs.flatMap(({pictures}) => pictures.map(({token, source}) => [token, source])));
  expect(votes.votes.every((vote) => vote.better === vote.left && vote.match === 'on par' && left.includes(sources.get(vote.left))),
    'study: the votes are for the pictures that stood on the left');
  // Another voter has another order, and other places.
  await order('Bob');
  for (let i = 0; i < data.pairs.length; i++) {
    await page.keyboard.press(String(1 + i % 2));
    await page.keyboard.press('8');
  }
  const [second] = await Promise.all([page.waitForEvent('download'), page.getByRole('button', {name: 'Download votes'}).click()]);
  await second.saveAs(join(out, 'votes-Bob.json'));
  const bob = JSON.parse(readFileSync(join(out, 'votes-Bob.json'), 'utf8'));
  const tokens = (file) => file.votes.map((vote) => vote.left).sort().join();
  expect(tokens(bob) !== tokens(votes), 'study: another voter has other places');
}

await browser.close();
for (const what of new Set(wrong)) console.log('WRONG', what);
console.log(wrong.length ? `${wrong.length} things are wrong` : 'nothing is wrong');
process.exit(wrong.length ? 1 : 0);
