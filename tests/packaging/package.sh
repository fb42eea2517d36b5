#!/usr/bin/env bash
# `make package`: builds the wheel and the source distribution in dist/, checks them, and uses each in an environment of its own,
# away from the repository. PYTHON says with which interpreter; needs a package index.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python=${PYTHON:-python3}
pip=(-m pip --quiet --disable-pip-version-check)

say() { printf '\n== %s\n' "$*"; }

say "build"
"$python" -m venv "$work/tools"
"$work/tools/bin/python" "${pip[@]}" install build twine check-wheel-contents
rm -rf "$root/dist" "$root/build"
# The wheel is built from the source distribution, so whatever that lacks is missed here.
"$work/tools/bin/python" -m build --outdir "$root/dist" "$root" > "$work/build.log" || { cat "$work/build.log"; exit 1; }
rm -rf "$root/build"

say "check"
"$work/tools/bin/twine" check --strict "$root"/dist/*
"$work/tools/bin/check-wheel-contents" --toplevel noterec "$root"/dist/*.whl
"$python" "$here/contents.py" "$root/dist"

for built in "$root"/dist/*.whl "$root"/dist/*.tar.gz; do
  say "use $(basename "$built")"
  rm -rf "$work/venv" && "$python" -m venv "$work/venv"
  "$work/venv/bin/python" "${pip[@]}" install "$built[cpu,serve]"
  "$work/venv/bin/python" "${pip[@]}" check
  cp "$here/use.py" "$here/client.py" "$work/"
  (
    cd "$work"
    export HF_HUB_OFFLINE=1 NOTEREC_CACHE="$work/cache"
    venv/bin/noterec --help > /dev/null
    venv/bin/noterec serve --help > /dev/null
    venv/bin/noterec doctor
    venv/bin/python use.py
  )
done

say "types, as a user's mypy sees them"
"$work/venv/bin/python" "${pip[@]}" install mypy
printf '[mypy]\nstrict = true\nplugins = pydantic.mypy\n' > "$work/mypy.ini"  # without the plugin, mypy takes settings' defaults for missing
(cd "$work" && venv/bin/mypy client.py)
