// SPDX-License-Identifier: GPL-3.0-only
// Pictures of the page against those that were looked at and found good.
//
// Another machine draws letters a little otherwise. So what is compared are means over squares of some pixels: what is where, in
// which colour; not the edges of letters.

import assert from 'node:assert/strict';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';

/** Size of the pictures that are kept. */
const KEPT = { width: 256, height: 160 };
/** Squares that are compared. */
const SQUARES = { width: 64, height: 40 };
/** How far a square may be off, of 255, and how many of them more than that. Moved down by two pixels none is; where allowed edges have another
 * colour, 0.3 %. */
const OFF = 26;
const SHARE = 0.0025;
/** How far they may be off in the mean. Moved down by two pixels it is 1.8. */
const MEAN = 3;

const references = new URL('references/', import.meta.url);
/** What was seen, for whoever wants to look. */
const seen = new URL('../../target/web-pictures/', import.meta.url);

/** @param {Buffer} picture PNG @param {boolean} keep as the new reference */
export async function compare(browser, picture, name, keep) {
  mkdirSync(seen, { recursive: true });
  writeFileSync(new URL(`${name}.png`, seen), picture);
  const page = await browser.newPage();
  try {
    const file = new URL(`${name}.png`, references);
    if (keep) {
      mkdirSync(references, { recursive: true });
      writeFileSync(file, Buffer.from(await page.evaluate(scaled, [picture.toString('base64'), KEPT]), 'base64'));
      return;
    }
    assert.ok(existsSync(file), `there is no reference ${name}; tests/web.sh --references makes it`);
    const [now, then] = [
      await page.evaluate(squares, [picture.toString('base64'), KEPT, SQUARES]),
      await page.evaluate(squares, [readFileSync(file).toString('base64'), KEPT, SQUARES]),
    ];
    const off = now.map((value, i) => Math.abs(value - then[i]));
    const mean = off.reduce((sum, value) => sum + value, 0) / off.length;
    const far = off.filter((value) => value > OFF).length / off.length;
    assert.ok(
      mean <= MEAN && far <= SHARE,
      `${name} does not look as it did: ${(far * 100).toFixed(1)} % of the squares differ, the mean by ${mean.toFixed(1)}; look at target/web-pictures/${name}.png, and if it is good: tests/web.sh --references`,
    );
  } finally {
    await page.close();
  }
}

/* Both run in a page of their own. */

async function scaled([data, size]) {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob(), {
    resizeWidth: size.width,
    resizeHeight: size.height,
    resizeQuality: 'high',
  });
  const canvas = new OffscreenCanvas(size.width, size.height);
  canvas.getContext('2d').drawImage(image, 0, 0);
  const bytes = new Uint8Array(await (await canvas.convertToBlob({ type: 'image/png' })).arrayBuffer());
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
}

async function squares([data, size, count]) {
  const image = await createImageBitmap(await (await fetch(`data:image/png;base64,${data}`)).blob(), {
    resizeWidth: size.width,
    resizeHeight: size.height,
    resizeQuality: 'high',
  });
  const canvas = new OffscreenCanvas(size.width, size.height);
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const { data: pixels } = context.getImageData(0, 0, size.width, size.height);
  const [w, h] = [size.width / count.width, size.height / count.height];
  const sums = new Array(count.width * count.height * 3).fill(0);
  for (let y = 0; y < size.height; y += 1) {
    for (let x = 0; x < size.width; x += 1) {
      const square = (Math.floor(y / h) * count.width + Math.floor(x / w)) * 3;
      for (let c = 0; c < 3; c += 1) sums[square + c] += pixels[(y * size.width + x) * 4 + c];
    }
  }
  return sums.map((sum) => sum / (w * h));
}
