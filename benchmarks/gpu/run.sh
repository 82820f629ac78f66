#!/usr/bin/env bash
# All that is measured on a GPU, in one call of at most nine minutes: prints one JSON, and leaves the logs of its parts in
# $OUT (build/gpu where there is none). Words are those of measure.py: run.sh [--small] [PART ...].
# Needs a python3 with torch and timm, and no network: what else is missing is installed into a folder of its own from
# build/carried, which carry.sh fills where there is one. Decodes with Pillow where nothing native was carried.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=${OUT:-$root/build/gpu}
mkdir -p "$out"
python=${PYTHON:-python3}
if "$python" -c 'import eighteen.cli, tomli_w' 2>/dev/null; then
  export PYTHONPATH="$root/benchmarks"
elif ls "$root"/build/carried/*.whl >/dev/null 2>&1; then
  site=$(mktemp -d)
  trap 'rm -rf "$site"' EXIT
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$root"/build/carried/*.whl >"$out/install.log" 2>&1
  export PYTHONPATH="$site:$root/benchmarks"
else
  export PYTHONPATH="$root/src:$root/benchmarks"
fi
"$python" "$here/measure.py" --out "$out" "$@"
