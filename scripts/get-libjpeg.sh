#!/bin/sh
# Sees to it that the native decoder can be built: libjpeg-turbo's headers, installed where that is allowed, else asked for.
has_headers() {
    printf '#include <stdio.h>\n#include <jpeglib.h>\nint wanted = JCS_EXT_RGBX;\n' | "${CXX:-c++}" -x c++ -fsyntax-only - 2>/dev/null
}

has_headers && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Getting libjpeg-turbo's headers ..."
    install="apt-get install --yes --quiet --no-install-recommends libjpeg-dev"
    $install >/dev/null 2>&1 || { apt-get update --quiet >/dev/null && $install >/dev/null; }
    has_headers && exit 0
fi
cat >&2 <<TEXT
The native decoder needs a C++ compiler and libjpeg-turbo's headers, and one of them is missing. Without it pictures are
decoded by Pillow, some three times slower. To build it later, type
  sudo apt-get install g++ libjpeg-dev        (elsewhere: libjpeg-turbo-devel, or: brew install jpeg-turbo)
  rm -f .venv/.synced                         and the same make command again
TEXT
