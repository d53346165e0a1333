#!/usr/bin/env bash
# The CUDA code on a GPU: every parity test and every comparison, from programs that were built elsewhere.
#
#   benches/gpu.sh --build             build the programs here, which needs no GPU, into target/gpu: a folder to carry
#   benches/gpu.sh --package DIR       the same into DIR
#   DIR/gpu.sh                         run everything on a GPU machine, in less than ten minutes
#   DIR/gpu.sh --part loss --part step only these: parity, loss, step, training, gammas, layers
#
#   --quick            fewer sizes and rounds, shorter trainings
#   --limit SECONDS    for everything together (585); what is left after that is left out, and named
#   --out DIR          where results go ($OUT, else ./gpu-results): tables.md, results.jsonl, log.txt
#   --libraries DIR    the CUDA libraries of our programs, instead of those found
#   --smoke            tiny sizes: tries the scripts, measures nothing, and needs no GPU for PyTorch
#
# A GPU machine needs a driver and a python3 with PyTorch for CUDA 13, whose packages hold the libraries; no Rust. --build
# needs Cargo and an nvcc (NVCC names another than the one on PATH); docs/gpu.md tells how it goes without a toolkit.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*" >&2; }
fail() { say "error: $*"; exit 1; }
usage() { sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"; }

# Building.

build() { # DIR
  local root=$here/.. to=$1 nvcc
  [ -f "$root/Cargo.toml" ] || fail "--build works in the repository alone; this is a package: run it without"
  command -v cargo > /dev/null || fail "cargo was not found; install Rust, or put the folder of cargo on PATH"
  nvcc=${NVCC:-$(command -v nvcc || true)}
  [ -n "$nvcc" ] || fail "no nvcc: Candle's kernels need one. Put CUDA 13's on PATH, name it as NVCC, or see docs/gpu.md"
  rm -rf "$to/bin"
  mkdir -p "$to/bin" "$to/compare"
  to=$(cd "$to" && pwd)
  local log=$to/.built
  # The newest card there is; older ones compile Candle's kernels anew.
  (cd "$root" && CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} cargo build --release --locked \
    -p seg-train -p workspace-benches --bin seg-train --bin gpu \
    --features seg-train/cuda,workspace-benches/cuda --message-format json-render-diagnostics > "$log"
  CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-90} cargo test --release --locked --no-run \
    -p workspace-tests --test cuda --features workspace-tests/cuda --message-format json-render-diagnostics >> "$log")
  python3 - "$log" "$to/bin" << 'PYTHON'
import json, shutil, sys
wanted = {"seg-train": "seg-train", "gpu": "gpu", "cuda": "parity"}
for line in open(sys.argv[1]):
    message = json.loads(line)
    name = wanted.get(message.get("target", {}).get("name")) if message.get("executable") else None
    if name:
        shutil.copy2(message["executable"], f"{sys.argv[2]}/{name}")
        print(name, message["executable"], file=sys.stderr)
PYTHON
  rm "$log"
  for name in seg-train gpu parity; do
    [ -x "$to/bin/$name" ] || fail "cargo built no $name; are the Cargo.toml files as they were?"
    strip "$to/bin/$name"
  done
  cp "$here"/compare/*.py "$to/compare/"
  cp "$here/gpu.sh" "$to/"
  {
    echo "commit $(git -C "$root" rev-parse --short HEAD)$(git -C "$root" diff --quiet HEAD || echo ', with changes')"
    "$nvcc" --version | grep release
    rustc --version
  } > "$to/bin/BUILD"
  # Packed, they are a fraction.
  tar -czf "$to/programs.tar.gz" -C "$to" bin
  rm -rf "$to/bin"
  local kib
  kib=$(du -sk "$to" | cut -f1)
  say "$to: $((kib / 1024)) MiB"
  [ "$kib" -lt $((64 * 1024)) ] || fail "$to has $kib KiB; expected less than 64 MiB, so that it can be carried"
}

# Running.

pip_folders() {
  python3 -c 'import nvidia; print(*nvidia.__path__, sep="\n")' 2> /dev/null || true
}

library() { # NAME: where it is, one a line, the best first
  local folder
  while read -r folder; do
    if [ -n "$folder" ]; then find -L "$folder" -name "$1" -not -path '*/stubs/*' 2> /dev/null || true; fi
  done < <(pip_folders)
  ldconfig -p 2> /dev/null | awk -v name="$1" '$1 == name { print $NF }' || true
  for folder in /usr/local/nvidia /usr/local/cuda/ /usr/lib/x86_64-linux-gnu /usr/lib64; do
    find -L "$folder" -name "$1" -not -path '*/stubs/*' 2> /dev/null || true
  done
}

libraries() { # the folders of all, for LD_LIBRARY_PATH
  local name at found=
  for name in libcuda.so.1 libnvrtc.so.13 libcublas.so.13 libcublasLt.so.13 libcurand.so.10; do
    at=$(library "$name")
    at=${at%%$'\n'*}
    [ -n "$at" ] || fail "$name was not found: it is the driver's (libcuda) or of a python3 with PyTorch for CUDA 13; --libraries names a folder"
    say "$name: $at"
    case ":$found:" in *":$(dirname "$at"):"*) ;; *) found=$found:$(dirname "$at") ;; esac
  done
  echo "${found#:}"
}

limit_of() { # PART: seconds
  case $1 in
    parity) echo 120 ;;
    loss) echo 90 ;;
    step) echo 160 ;;
    training) echo 100 ;;
    gammas) echo 90 ;;
    layers) echo 80 ;;
  esac
}

action=run package='' smoke='' quick='' limit=585 out=${OUT:-./gpu-results} given='' parts=()
while [ $# -gt 0 ]; do
  case $1 in
    --build) action=build package=$here/../target/gpu ;;
    --package) action=build package=${2:?--package needs a folder}; shift ;;
    --part) parts+=("${2:?--part needs a name}"); shift ;;
    --limit) limit=${2:?--limit needs seconds}; shift ;;
    --out) out=${2:?--out needs a folder}; shift ;;
    --libraries) given=${2:?--libraries needs a folder}; shift ;;
    --smoke) smoke=--smoke ;;
    --quick) quick=--quick ;;
    -h | --help) usage; exit ;;
    *) usage >&2; fail "unknown argument $1" ;;
  esac
  shift
done
if [ "$action" = build ]; then build "$package"; exit; fi

[ ${#parts[@]} -gt 0 ] || parts=(parity loss step training gammas layers)
for part in "${parts[@]}"; do
  [ -n "$(limit_of "$part")" ] || fail "unknown part $part; there are parity, loss, step, training, gammas and layers"
done
packed=$here/programs.tar.gz
[ -f "$packed" ] || packed=$here/../target/gpu/programs.tar.gz
[ -f "$packed" ] || fail "no programs in $packed; make them with benches/gpu.sh --build"
mkdir -p "$out"
out=$(cd "$out" && pwd)
scratch=$(mktemp -d)
warm=
# Only what was started here is ended.
trap '[ -z "$warm" ] || kill "$warm" 2> /dev/null || true; rm -rf "$scratch"' EXIT
tar -xzf "$packed" -C "$scratch"
programs=$scratch/bin
if [ -n "$given" ]; then paths=$(cd "$given" && pwd); else paths=$(libraries); fi
export TORCHINDUCTOR_CACHE_DIR=$scratch/compiled PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
# Names what ran: the tables are worth nothing without it.
{
  echo "# On a GPU"
  echo
  nvidia-smi --query-gpu=name,driver_version,memory.total,clocks.sm,clocks.mem,power.limit --format=csv,noheader 2> /dev/null \
    || echo "no nvidia-smi: not a GPU machine"
  echo
  sed 's/^/- /' "$programs/BUILD" 2> /dev/null || echo "- no BUILD file"
} | tee -a "$out/tables.md"

compare() { # PART SECONDS
  # Time to end its processes and print its table before it is ended.
  timeout --kill-after=10 "$2" python3 "$here/compare/gpu.py" "$1" --bin "$programs" --out "$out" \
    --libraries "$paths" --seconds "$(($2 > 30 ? $2 - 12 : $2))" $smoke $quick 2>> "$out/log.txt"
}

has() { case " ${parts[*]} " in *" $1 "*) ;; *) return 1 ;; esac; }
# What PyTorch compiles, it compiles while the tests run; what it makes is kept on disk.
if has parity && { has loss || has step; }; then
  compare warm 120 &
  warm=$!
fi
rc=0 ended=()
later=0
for part in "${parts[@]}"; do later=$((later + $(limit_of "$part"))); done
for part in "${parts[@]}"; do
  # Its own time, and what those after it do not need; never more than there is.
  seconds=$(limit_of "$part") left=$((limit - SECONDS))
  later=$((later - seconds))
  [ $((left - later)) -le "$seconds" ] || seconds=$((left - later))
  [ "$left" -ge "$seconds" ] || seconds=$left
  if [ "$seconds" -lt 5 ]; then
    ended+=("| $part | no time was left | |")
    rc=1
    continue
  fi
  say "$part: at most $seconds s"
  before=$SECONDS code=0
  compare "$part" "$seconds" || code=$?
  case $code in 0) word=done ;; 124 | 137) word="its time was over" ;; *) word="failed, code $code (log.txt)" ;; esac
  [ "$code" = 0 ] || rc=1
  ended+=("| $part | $word | $((SECONDS - before)) |")
  if [ -n "$warm" ]; then
    wait "$warm" || say "what PyTorch compiles was not all compiled beforehand (log.txt)"
    warm=
  fi
done
{
  printf '\n## What ran\n\n| part | | s |\n|---|---|---:|\n'
  printf '%s\n' "${ended[@]}"
} | tee -a "$out/tables.md"
say "results: $out"
exit $rc
