#!/usr/bin/env bash
# Makes the environments of the loaders that ours is compared with, each from the NAME.txt beside this file, under
# build/peers: setup.sh [NAME ...], all if none is named. What cannot be installed is said, and left out of the comparison.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../../.." && pwd)
uv=$(command -v uv || echo "$root/.tools/bin/uv")
mkdir -p "$root/build/peers"
cd "$root/build/peers" || exit 1

# FFCV has no wheels: it is compiled against OpenCV and libjpeg-turbo
prepare() {
  [ "$1" != ffcv ] || apt-get install -y g++ pkg-config libopencv-dev libturbojpeg0-dev
}

make_one() {
  prepare "$1" && "$uv" venv --clear --python 3.11 "$1" || return
  # FFCV's setup.py imports what it needs without saying so
  [ "$1" != ffcv ] || "$uv" pip install --python ffcv/bin/python $(grep -v ^ffcv "$here/ffcv.txt") || return
  "$uv" pip install --python "$1/bin/python" --no-build-isolation -r "$here/$1.txt"
}

for name in ${@:-torch dali tensorflow ffcv lightning}; do
  if make_one "$name" >"$name.log" 2>&1; then echo "$name: ready"; else echo "$name: failed, see build/peers/$name.log"; rm -rf "$name"; fi
done
