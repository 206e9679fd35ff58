# What tests/run, tests/demo, benches/run and tests/nix/run share: cargo, a C linker, and root where it is needed.
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export CARGO_TARGET_DIR=$PWD/target
sudo=
[ "$(id -u)" -eq 0 ] || sudo="sudo --preserve-env=PATH,LAB_ROOTS,LAB_ENGINE,LAB_PROGRAM"
command -v cargo >/dev/null || { echo "cargo is missing: install Rust first (https://rustup.rs)" >&2; exit 1; }
need() { # PROGRAM PACKAGE...
  command -v "$1" >/dev/null && return
  command -v apt-get >/dev/null || { echo "$1 is missing, and there is no apt-get to install it with" >&2; exit 1; }
  echo "installing ${*:2}, for $1"
  $sudo apt-get update -qq
  $sudo apt-get install -y -qq --no-install-recommends "${@:2}"
}
tools=$CARGO_TARGET_DIR/tools
tool() { # CRATE VERSION: a program from crates.io, beside what cargo builds
  grep -qs "\"$1 $2 " "$tools/.crates.toml" || cargo install --quiet --locked --root "$tools" "$1@$2"
}
# Rust links with it.
need cc gcc libc6-dev
# What labs that were killed left behind.
sweep() { [ ! -x target/debug/lab ] || $sudo target/debug/lab --sweep; }
