// SPDX-License-Identifier: GPL-3.0-only
// Runs tests one after the other, and counts as cargo does.

const tests = [];

/** @param {string} name as a sentence @param {() => Promise<void> | void} body fails by throwing */
export function test(name, body) {
  tests.push({ name, body });
}

/** Runs those whose name has a word of the command line, or all; gives how many failed. */
export async function run(words) {
  const wanted = tests.filter(({ name }) => !words.length || words.some((word) => name.includes(word)));
  let failed = 0;
  for (const { name, body } of wanted) {
    const began = Date.now();
    try {
      await body();
      console.log(`test ${name} ... ok (${((Date.now() - began) / 1000).toFixed(1)} s)`);
    } catch (error) {
      failed += 1;
      console.log(`test ${name} ... FAILED\n${error.stack}`);
    }
  }
  console.log(
    `\ntest result: ${failed ? 'FAILED' : 'ok'}. ${wanted.length - failed} passed; ${failed} failed; 0 ignored; 0 measured; ${tests.length - wanted.length} filtered out`,
  );
  return failed;
}
