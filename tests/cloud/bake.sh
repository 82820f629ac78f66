#!/bin/sh
# bake.sh FOLDER: what hosts of the lab need so that SkyPilot sets them up without asking anybody for packages: uv, a
# Python 3.10 with SkyPilot and Ray (0.9 GB), and sudo. EIGHTEEN_SKY names the programs of SkyPilot, and
# PYTHON a Python 3.10 that hosts see, so not in /tmp. Needs root and Debian.
set -eu
mkdir -p "$1"
set -- "$(cd "$1" && pwd)"
user=1077 home=$1/home/ubuntu runtime=$1/home/ubuntu/skypilot-runtime
mkdir -p "$home/.local/bin" "$1/etc/uv" "$1/etc/sudoers.d"
cp "$EIGHTEEN_SKY/uv" "$home/.local/bin"
echo 'offline = true' >"$1/etc/uv/uv.toml"
"${PYTHON:-python3.10}" -m venv "$runtime"
install() { "$runtime/bin/pip" install --quiet "$@"; }
install 'setuptools<70' wheel 'ray[default]==2.9.3' 'pydantic-core==2.41.1' 'click<8.3.0'
install 'skypilot[aws,remote]==0.14.1'
install 'setuptools<70' 'click<8.3.0' 'pydantic-core==2.41.1'
grep -rlIF "$1" "$runtime/bin" "$runtime/pyvenv.cfg" | xargs sed -i "s|$1/home|/home|g"  # where it lies on a host
(cd "$1" && apt-get download sudo && dpkg-deb --extract sudo_*.deb . && rm -r lib sudo_*.deb)  # lib is a link there
echo 'ubuntu ALL=(ALL) NOPASSWD:ALL' >"$1/etc/sudoers.d/lab"
chown -R "$user:$user" "$1/home/ubuntu"
