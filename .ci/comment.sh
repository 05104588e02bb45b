#!/usr/bin/env bash
# What the working tree changes against another commit, for a comment on a pull request:
# OUT/comment.md (metrics and parameters) and OUT/plots (a page with both curves, where the data can be had).
set -euo pipefail
base=$1 out=$2
dvc=.venv/bin/dvc
git rev-parse --verify --quiet "$base^{commit}" >/dev/null || { echo "error: $base is not a commit of this checkout; fetch it" >&2; exit 2; }
mkdir -p "$out"
out=$(realpath "$out")
rm -rf "$out/plots" "$out/comment.md"
section() {
  local table
  table=$($dvc "$2" diff --md "$base")
  printf '### %s\n\n%s\n\n' "$1" "${table:-No change.}"
}
# What the plots are drawn of is data: that of this commit is pulled where there is a remote, that of the other read from there.
files() {
  .venv/bin/python -c '
from pathlib import Path
from ruamel.yaml import YAML
plots = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8")).get("plots", [])
print(*sorted({file for plot in plots for one in plot.values() for file in one["y"]}), sep="\n")'
}
if [ -n "$($dvc remote list)" ]; then
  files | xargs -r "$dvc" pull --quiet || echo "the data of the plots could not be pulled" >&2
fi
# It ends well where files cannot be had, and names the commits that lack them; an error is one of dvc.yaml or of DVC.
said=$($dvc plots diff "$base" --out "$out/plots" 2>&1 >/dev/null) || { echo "error: dvc plots diff failed: $said" >&2; exit 1; }
{
  echo "## Against $(git rev-parse --short "$base")"
  echo
  section Metrics metrics
  section Parameters params
  if [ -f "$out/plots/index.html" ]; then
    artifact="artifact \`report\`"
    [ -z "${GITHUB_RUN_ID:-}" ] || artifact="[$artifact]($GITHUB_SERVER_URL/$GITHUB_REPOSITORY/actions/runs/$GITHUB_RUN_ID#artifacts)"
    echo "Plots of both: \`plots/index.html\` in the $artifact of this run. ${said//$'\n'/ }"
  else
    echo "No plots: their data are in no remote that this run can read. ${said//$'\n'/ }"
  fi
} > "$out/comment.md"
echo "$out/comment.md"
