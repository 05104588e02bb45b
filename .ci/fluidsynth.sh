#!/usr/bin/env bash
# Make sure of libfluidsynth, the one system library, or say exactly what to type.
set -euo pipefail
present() { "$1" -c 'import ctypes.util, sys; sys.exit(not (ctypes.util.find_library("fluidsynth") or ctypes.util.find_library("libfluidsynth")))'; }
python=${1:-python3}
present "$python" && exit 0
if [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null; then
  brew install fluid-synth
elif command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends libfluidsynth3
elif command -v apt-get >/dev/null && command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
  sudo apt-get update -qq && sudo apt-get install -y -qq --no-install-recommends libfluidsynth3
fi
present "$python" && exit 0
echo "error: the FluidSynth library is missing; install it and run make again:" \
     "sudo apt-get install libfluidsynth3 (Debian, Ubuntu, WSL2), brew install fluid-synth (macOS)," \
     "sudo dnf install fluidsynth-libs (Fedora) or sudo pacman -S fluidsynth (Arch)." >&2
exit 2
