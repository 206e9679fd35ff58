# What benches/run measures of a dry run, inside the lab, with as many images as there are: one row. Arguments:
# the folder of the built program, how many images.
set -euo pipefail
docker() { $LAB_ENTER docker "$@"; }
cp "$1/ci-docker-prune" "$LAB/"
read -r used available < <(df --block-size=1 --output=used,avail "$LAB/data" | tail -n 1)
fallocate --length $(((used + available) * 85 / 100 - used)) "$LAB/data/ballast"
measure() { target/debug/bench measure "$1" $LAB_ENTER env STATE_DIRECTORY="$LAB/state" RUNTIME_DIRECTORY="$LAB/run" "${@:2}"; }
ours=$(measure 10 "$LAB/ci-docker-prune" --dry-run)
theirs=$(measure 10 docker image ls --all --quiet --digests)
awk -v n="$2" -v a="$ours" -v b="$theirs" 'BEGIN { split(a, x, " "); split(b, y, " ")
  printf "| %s | %.1f ± %.1f ms | %.1f ms | %.1f MiB | %.1f ± %.1f ms | %.1f ms | %.1f MiB | %.2f × |\n", n,
    x[1], x[2], x[3], x[4] / 1024, y[1], y[2], y[3], y[4] / 1024, x[1] / y[1] }'
