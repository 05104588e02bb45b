#!/usr/bin/env bash
# pip-audit of requirements.lock. Exit code 1: vulnerabilities are known; 3: the service that knows them did not answer for
# all packages, which pip-audit itself takes for a pass.
set -uo pipefail
log=$(mktemp)
trap 'rm -f "$log"' EXIT
"$1" --requirement requirements.lock --no-deps --disable-pip --progress-spinner off >"$log" 2>&1
code=$?
missed=$(grep -c 'could not be audited' "$log")
# Where some were not audited, neither the sentence that nothing is known nor the table of them.
if [ "$missed" = 0 ]; then cat "$log"; else grep -vE 'could not be audited|^No known|^Name +Skip|^-+ +-+$' "$log"; fi
grep -qE 'Found [0-9]+ known vulnerabilit' "$log" && exit 1
if [ $code != 0 ] || [ "$missed" != 0 ]; then
  echo "error: the service that knows vulnerabilities did not answer for ${missed/#0/the} packages, so they were not audited;" \
    "run make audit where it can be reached" >&2
  exit 3
fi
