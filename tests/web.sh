#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
#
# Tries the page of policyd in a headless Chromium, against a daemon that gives fixed answers. Needs nodejs with npm, chromium, the
# DejaVu fonts, and a registry of npm packages within reach.
#
#   tests/web.sh [--references] [WORDS OF TESTS' NAMES]
#
# --references takes the page's looks of now as those that it is to have: look at tests/web/references before it is committed.
#
# Exit status: 0 all is as it should be, 77 it cannot be tried here, else not. The last line says how many tests passed and failed.
set -eu
cd "$(dirname "$0")/.."

not_here() {
    echo "the page cannot be tried: $1" >&2
    exit 77
}

CHROMIUM=${CHROMIUM:-$(command -v chromium)} || not_here "chromium is not installed"
export CHROMIUM
command -v npm >/dev/null || not_here "npm is not installed"
fc-list 2>/dev/null | grep -q DejaVuSans.ttf || not_here "the DejaVu fonts are not installed (fonts-dejavu-core)"

# What is there already need not be asked for again.
fetch() {
    [ -e "$1/node_modules/.package-lock.json" ] && [ ! "$1/package-lock.json" -nt "$1/node_modules/.package-lock.json" ] ||
        npm ci --prefix "$1" --ignore-scripts --no-audit --no-fund --fetch-retries=1 --loglevel=error >&2 ||
        not_here "is a registry of npm packages within reach?"
}
fetch policyd/web
fetch tests/web
exec node tests/web/run.js "$@"
