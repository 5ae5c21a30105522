#!/usr/bin/env bash
# Installs what armfleet needs into .venv: Debian packages (asks sudo when not root), a Python 3.12 or 3.13,
# the locked dependencies with their hashes, and armfleet itself as an editable package.
set -euo pipefail
cd "$(dirname "$0")/.."

# python3-dev: systemd-python comes as source only and needs Python.h.
packages=(libsystemd-dev pkg-config gcc python3-dev libegl1 libgl1-mesa-dri nginx-light openssh-client python3-venv)
missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if ((${#missing[@]})); then
  echo "installing Debian packages: ${missing[*]}"
  sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
  # A policy file keeps Debian from starting the system's own nginx: armfleet runs one of its own.
  $sudo sh -c 'test -e /usr/sbin/policy-rc.d || { printf "#!/bin/sh\nexit 101\n" >/usr/sbin/policy-rc.d; chmod +x /usr/sbin/policy-rc.d; touch /run/armfleet-policy-rc.d; }'
  trap '$sudo sh -c "test -e /run/armfleet-policy-rc.d && rm -f /usr/sbin/policy-rc.d /run/armfleet-policy-rc.d || true"' EXIT
  DEBIAN_FRONTEND=noninteractive $sudo apt-get update -qq
  DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# uv brings Python itself where the machine has none that fits (UV_PYTHON_DOWNLOADS=never forbids that).
find_python() {
  local candidate
  for candidate in python3.12 python3.13 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 12) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
}
python=$(find_python)
tools=.venv-tools
if [ ! -x "$tools/bin/uv" ]; then
  "${python:-python3}" -m venv "$tools"
  "$tools/bin/python" -m pip install -q --disable-pip-version-check uv
fi
uv=$tools/bin/uv
"$uv" venv -q --clear --python "${python:-3.12}" .venv
echo "installing the locked Python packages into .venv"
# Compiled now, once: a process that imports LeRobot then starts in half the time, also where the service may not
# write into the environment.
"$uv" pip sync -q --compile-bytecode --python .venv/bin/python --require-hashes requirements.lock
"$uv" pip install -q --python .venv/bin/python --no-deps -e .
.venv/bin/python -m compileall -q agent cli coordinator shared sim
