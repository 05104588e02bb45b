#!/usr/bin/env bash
# Make sure of libfluidsynth, the one system library, or say exactly what to type.
set -euo pipefail
python=${1:-python3}
# As the pipeline looks for it; a Python without pyfluidsynth can only ask the linker.
present() {
  "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("fluidsynth") is None)' 2>/dev/null \
    && { "$python" -c 'import fluidsynth' 2>/dev/null; return; }
  "$python" -c 'import ctypes.util, sys; sys.exit(not any(map(ctypes.util.find_library, ("fluidsynth", "libfluidsynth"))))'
}
# A failed install must still end in the sentence below.
if present; then
  exit 0
elif [ "$(uname -s)" = Darwin ] && command -v brew >/dev/null; then
  brew install fluid-synth || true
elif command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  { apt-get update -qq; apt-get install -y -qq --no-install-recommends libfluidsynth3; } || true
elif command -v apt-get >/dev/null && command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
  # Without a terminal nobody could type the password.
  { sudo apt-get update -qq; sudo apt-get install -y -qq --no-install-recommends libfluidsynth3; } || true
fi
present && exit 0
echo "error: the FluidSynth library is missing; install it and run make again:" \
     "sudo apt-get install libfluidsynth3 (Debian, Ubuntu, WSL2), brew install fluid-synth (macOS)," \
     "sudo dnf install fluidsynth-libs (Fedora) or sudo pacman -S fluidsynth (Arch)." >&2
exit 2
