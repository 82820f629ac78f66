#!/usr/bin/env bash
# Fills build/carried with what run.sh installs on a machine without a network: our own wheel with its native decoder, and
# what a machine that has torch, timm and pyarrow may lack. carry.sh [PYTHON-VERSION], that machine's; 3.12 if left out.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
cd "$root"
rm -rf build/carried && mkdir -p build/carried
make --silent wheel
cp dist/*.whl build/carried
platforms=$(for number in 39 34 28 17; do echo "--platform manylinux_2_${number}_x86_64"; done)
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version "${1:-3.12}" --implementation cp \
  $platforms --platform manylinux2014_x86_64 --dest build/carried \
  $(grep -vE '^ *(#|$)' benchmarks/gpu/carried.txt)
ls -sh build/carried
