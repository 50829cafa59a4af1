#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-only
#
# Holds the API against its own OpenAPI document: schemathesis makes up requests, right and wrong ones, and checks every
# answer. The daemon is the real one without Xen, asked by TLS with a certificate. Needs root, python3 with venv, and a
# registry of Python packages within reach.
#
#   tests/schemathesis.sh [OPTIONS OF schemathesis run]
#
# Exit status: 0 all answers were as the document says, 77 schemathesis cannot be installed here, else not.
set -eu
cd "$(dirname "$0")/.."

version=4.32.5
tools=target/schemathesis
if ! "$tools/bin/schemathesis" --version 2>/dev/null | grep -qF "$version"; then
    python3 -m venv "$tools" && "$tools/bin/pip" install --quiet "schemathesis==$version" || {
        echo "schemathesis cannot be installed: is python3-venv here, and a registry of Python packages within reach?" >&2
        exit 77
    }
fi

cargo test --quiet --package policyd --no-run
dir=$(mktemp -d)
mkfifo "$dir/hold"
address=127.0.0.1:$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
XMESH_CERTIFICATES=$dir XMESH_LISTEN=$address cargo test --quiet --package policyd -- \
    --ignored --exact api::tests::contract::serves_for_schemathesis <"$dir/hold" >"$dir/log" 2>&1 &
served=$!
# The daemon ends when nobody has the other end of its standard input open.
exec 3>"$dir/hold"
trap 'exec 3>&-; wait $served || true; rm -rf "$dir"' EXIT
for _ in $(seq 300); do
    [ -e "$dir/ready" ] && break
    kill -0 $served 2>/dev/null || { cat "$dir/log" >&2; exit 1; }
    sleep 0.2
done
[ -e "$dir/ready" ] || { echo "the daemon does not serve within a minute" >&2; cat "$dir/log" >&2; exit 1; }

# A server that refuses an upload early hangs up on who still sends; some clients tell that as a network's error. What an answer said
# wrongly is told as a failure, and not tried again.
try() {
    "$tools/bin/schemathesis" --config-file tests/schemathesis.toml run "https://$address/v1/openapi.json" \
        --tls-verify "$dir/ca.pem" --request-cert "$dir/client.pem" --request-cert-key "$dir/client.key" "$@"
}
if try "$@" >"$dir/told"; then
    cat "$dir/told"
elif grep -q "Network Error" "$dir/told" && ! grep -q "= FAILURES =" "$dir/told"; then
    try "$@"
else
    cat "$dir/told"
    exit 1
fi
