// SPDX-License-Identifier: GPL-3.0-only
// Runs the tests of the page.
//
//   node run.js [--references] [WORDS OF TESTS' NAMES]

import { chromium } from 'playwright-core';
import { browser } from './page.js';
import './pure.js';
import { run } from './runner.js';

const words = process.argv.slice(2).filter((word) => !word.startsWith('--'));
browser.references = process.argv.includes('--references');
// Without its sandbox: tests are run as root, and the only pages are ours.
browser.is = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--font-render-hinting=none', '--force-color-profile=srgb'],
});
const failed = await run(words);
await browser.is.close();
process.exit(failed ? 1 : 0);
