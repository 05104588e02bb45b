#!/usr/bin/env bash
# Runs an image of the HTTP server as docs/operations.md says: .ci/image.sh IMAGE. It must become healthy as another user than
# root, on a root that cannot be written, transfer a sound, and end with 0 when it is stopped.
set -euo pipefail
cd "$(dirname "$0")/.."
tool=$(command -v docker || command -v podman) || { echo "error: an image runs in docker or podman, and none is installed" >&2; exit 2; }
fail() { echo "error: $1" >&2; "$tool" logs "$id" >&2; exit 1; }

id=$("$tool" run --detach --read-only --tmpfs /tmp:size=1g --cap-drop ALL --publish 127.0.0.1::8080 "$1")
out=$(mktemp)
trap '"$tool" rm --force "$id" >/dev/null; rm -f "$out"' EXIT
for ((second = 0; ; second++)); do
  state=$("$tool" inspect --format '{{.State.Status}} {{.State.Health.Status}}' "$id")
  [ "$state" != "running healthy" ] || break
  [[ $state == running* && $second -lt 180 ]] || fail "$1 is not healthy after $second s, but $state"
  sleep 1
done
[ "$("$tool" exec "$id" id -u)" != 0 ] || fail "$1 runs as root"
! "$tool" exec "$id" touch /opt/timbreflow/x 2>/dev/null || fail "the root of $1 can be written"
address=$("$tool" port "$id" 8080)
curl -fsS --retry 60 --retry-delay 1 "http://$address/readyz"; echo
curl -fsS --max-time 120 -F content=@docs/sounds/violin-tune.ogg -F style=@docs/sounds/xylophone.ogg \
  "http://$address/transfer" -o "$out" || fail "$1 did not transfer a sound"
[ "$(head -c 4 "$out")" = RIFF ] || fail "$1 gave no wav file"
"$tool" stop --time 120 "$id" >/dev/null
code=$("$tool" inspect --format '{{.State.ExitCode}}' "$id")
[ "$code" = 0 ] || fail "$1 ended with $code"
echo "$1 runs read-only as another user than root, transfers a sound, and ends with 0"
