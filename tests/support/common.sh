# What tests/run, tests/demo and tests/bench share: cargo, a C linker, and root where it is needed.
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR=$PWD/target
sudo=
[ "$(id -u)" -eq 0 ] || sudo="sudo --preserve-env=PATH,LAB_ROOTS,LAB_ENGINE"
command -v cargo >/dev/null || { echo "cargo is missing: install Rust first (https://rustup.rs)" >&2; exit 1; }
if ! command -v cc >/dev/null; then
  command -v apt-get >/dev/null || { echo "cc is missing: Rust needs a C compiler to link with" >&2; exit 1; }
  echo "installing gcc, which Rust links with"
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends gcc libc6-dev
fi
# What labs that were killed left behind.
sweep() { [ ! -x target/debug/lab ] || $sudo target/debug/lab --sweep; }
