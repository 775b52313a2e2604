#!/usr/bin/env bash
# One script for all the set-up: installs what is missing, builds, and then trains or tests.
#   ./setup.sh quickstart   train configs/quickstart.yaml on the C++ standard library's headers (4 to 12 minutes); goes
#                           on where it was interrupted; with --overwrite it starts anew. CUDA code is compiled where
#                           there is a GPU, or with --cuda
#   ./setup.sh test         run the whole test suite; with --peers also against transformers, PyTorch, h5py and other
#                           readers of the same files, in a Python environment made in build/peers
#   ./setup.sh build        stop after the build: build/release/filigree
set -euo pipefail
cd "$(dirname "$0")"

packages=(g++ cmake ninja-build libdnnl-dev libhdf5-dev libyaml-cpp-dev libgtest-dev libbenchmark-dev libcli11-dev
          libfmt-dev nlohmann-json3-dev libxxhash-dev zlib1g-dev libutfcpp-dev libboost-dev)
peer_packages=(python3-venv python3-numpy python3-torch) # Debian's torch is for the CPU: a tenth of PyPI's in size

install_packages() { # install_packages PACKAGE...
  if ! command -v dpkg-query >/dev/null; then
    echo "setup.sh: this system has no dpkg; install the equivalents of: $*" >&2
    echo "setup.sh: then build with: cmake --preset release && cmake --build --preset release" >&2
    exit 2
  fi
  local missing=() p
  for p in "$@"; do
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "setup.sh: installing ${missing[*]}"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || { echo "setup.sh: not root and no sudo; as root run: apt-get install ${missing[*]}" >&2; exit 2; }
    as_root=(sudo)
  fi
  "${as_root[@]}" apt-get update -qq
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The Python environment of the checks in tests/peers. Those checks are skipped where it cannot be made.
make_peers() {
  local made_from=build/peers/requirements.txt
  cmp -s tests/peers/requirements.txt "$made_from" && return
  rm -rf build/peers
  if (install_packages "${peer_packages[@]}") &&
    /usr/bin/python3 -m venv --system-site-packages build/peers &&
    build/peers/bin/pip install -q --timeout 20 --retries 2 --disable-pip-version-check -r tests/peers/requirements.txt; then
    cp tests/peers/requirements.txt "$made_from"
  else
    rm -rf build/peers
    echo "setup.sh: the peers' Python environment could not be made; their checks will be skipped" >&2
  fi
}

# transformers 5 with the versions of its libraries that it needs: a folder that check_transformers5.py puts before
# that environment.
make_peers5() {
  [ -x build/peers/bin/pip ] || return 0
  local made_from=build/peers5/requirements5.txt
  cmp -s tests/peers/requirements5.txt "$made_from" && return
  rm -rf build/peers5
  if build/peers/bin/pip install -q --timeout 20 --retries 2 --disable-pip-version-check --target build/peers5 \
    -r tests/peers/requirements5.txt; then
    cp tests/peers/requirements5.txt "$made_from"
  else
    rm -rf build/peers5
    echo "setup.sh: transformers 5 could not be installed; its checks will be skipped" >&2
  fi
}

# CUDA is on wherever nvcc is, unless an option says otherwise.
build() { # build TARGET [CMAKE-OPTION...]
  echo "setup.sh: building $1 in build/release with $(nproc) cores"
  cmake --preset release -U FILIGREE_CUDA "${@:2}" >/dev/null
  cmake --build --preset release --target "$1"
}

# The folder of the C++ standard library's headers of the compiler that has just built filigree.
cxx_headers() {
  echo '#include <vector>' | "${CXX:-c++}" -x c++ -E - | sed -n 's|^# 1 "\(.*/c++/[0-9.]*\)/vector".*|\1|p' | head -n 1
}

case "${1:-}" in
  build)
    install_packages "${packages[@]}"
    build all
    echo "built: build/release/filigree"
    ;;
  quickstart)
    cuda=() train=()
    compgen -G '/dev/nvidia*' >/dev/null || cuda=(-DFILIGREE_CUDA=OFF)
    for option in "${@:2}"; do
      case "$option" in
        --overwrite) train=(--overwrite) ;;
        --cuda) cuda=() ;;
        *) echo "setup.sh: unknown option $option; there are --overwrite and --cuda" >&2; exit 2 ;;
      esac
    done
    install_packages "${packages[@]}"
    [ ${#cuda[@]} -eq 0 ] || echo "setup.sh: no GPU here (no /dev/nvidia*), so CUDA code is not compiled; --cuda asks for it"
    build filigree "${cuda[@]}"
    text=$(cxx_headers)
    [ -n "$text" ] || { echo "setup.sh: cannot find the C++ standard library's headers of ${CXX:-c++}" >&2; exit 2; }
    if [ ${#train[@]} -eq 0 ] && grep -qs '"status": "finished"' runs/quickstart/run.json; then
      echo "runs/quickstart holds a finished run; ./setup.sh quickstart --overwrite trains anew"
    else
      build/release/filigree train configs/quickstart.yaml "data.train=[$text]" "${train[@]}" || exit
    fi
    echo
    build/release/filigree generate runs/quickstart --prompt "  template<typename _Tp>" --temperature 0.7 --tokens 300
    cat <<'END'

checkpoint  runs/quickstart/checkpoints/best.h5
metrics     runs/quickstart/metrics.jsonl
config      configs/quickstart.yaml   (resolved: runs/quickstart/config.yaml)
next step   see a pattern:        build/release/filigree explain configs/quickstart.yaml
            train on your text:   build/release/filigree train configs/quickstart.yaml data.train=[PATH] train.out=runs/mine
            another pattern:      ... 'pattern={longformer: {window: 64, global: 2}}'
END
    ;;
  test)
    [ "${2:-}" = --peers ] || [ $# -eq 1 ] || { echo "setup.sh: unknown option $2; there is --peers" >&2; exit 2; }
    install_packages "${packages[@]}"
    build all
    if [ "${2:-}" = --peers ]; then make_peers && make_peers5; fi
    ctest --preset release -j "$(nproc)"
    ;;
  *)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
