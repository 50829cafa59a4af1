#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
#
# Holds `/metrics` and the alerts against Prometheus' own idea of what is sound: promtool reads what a real daemon without Xen
# serves, and complains of names, types and help texts. Needs root, and Debian's packages within reach (promtool is taken out of the package;
# nothing is installed or started).
#
#   tests/promtool.sh
#
# Exit status: 0 sound, 77 promtool cannot be had here, else not.
set -eu
cd "$(dirname "$0")/.."

promtool=$(command -v promtool || echo target/promtool/usr/bin/promtool)
if ! [ -x "$promtool" ]; then
    dir=$(mktemp -d)
    # The user that apt downloads as may not write where root's things are.
    (cd "$dir" && apt-get -qq -o APT::Sandbox::User=root download prometheus && dpkg-deb -x ./*.deb out) || {
        rm -rf "$dir"
        echo "promtool cannot be had: are Debian's packages within reach (apt-get update)?" >&2
        exit 77
    }
    mkdir -p target/promtool
    cp -a "$dir/out/." target/promtool/
    rm -rf "$dir"
fi

metrics=$(mktemp)
trap 'rm -f "$metrics"' EXIT
XMESH_METRICS=$metrics cargo test --quiet --package policyd -- \
    --exact api::tests::contract::every_route_answers_as_the_document_says >/dev/null
[ -s "$metrics" ] || { echo "the test wrote no metrics" >&2; exit 1; }
"$promtool" check metrics <"$metrics"
"$promtool" check rules packaging/monitoring/prometheus-alerts.yml
echo "$(grep -c '^[^#]' "$metrics") samples of $(grep -c '^# TYPE' "$metrics") metrics are sound"
