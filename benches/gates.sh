# What benches/run measures of check-gates, inside the lab. Argument: the folder of the built program.
set -euo pipefail
docker() { $LAB_ENTER docker "$@"; }
cp "$1/ci-docker-prune" benches/gates-by-cli.sh "$LAB/"
mkdir -p "$LAB/state"
docker pull --quiet redis:7-alpine >/dev/null

# More than there are, until there are so many. Services are scaled to 0 and containers never started: what
# a list of them costs is the same.
have_services=0
services() { # HOW-MANY
  [ "$1" -gt "$have_services" ] || return 0
  { printf 'version: "3.8"\nservices:\n'
    for n in $(seq "$1"); do
      printf '  s%s:\n    image: redis:7-alpine\n    deploy: {replicas: 0}\n' "$n"
    done; } | docker stack deploy --resolve-image never --compose-file - web >/dev/null 2>&1
  have_services=$1
}
have_containers=0
containers() { # HOW-MANY
  local start='for n in $(seq '$have_containers' '$(($1 - 1))'); do docker create redis:7-alpine >/dev/null; done'
  [ "$1" -le "$have_containers" ] || $LAB_ENTER sh -c "$start"
  have_containers=$1
}

# All run inside the engine's root, entered the same way; each starts 20 times after 3 to warm up.
measure() { target/debug/bench measure 20 $LAB_ENTER env STATE_DIRECTORY="$LAB/state" "$@"; }
# One API call by curl from outside: no program could be faster than the slowest of those that it needs.
call() { target/debug/bench measure 20 curl --silent --fail --output /dev/null --unix-socket "$LAB/data.sock" "http://engine/v1.41$1"; }
live='%7B%22status%22%3A%5B%22created%22%2C%22restarting%22%2C%22running%22%2C%22removing%22%2C%22paused%22%5D%7D'
slowest() {
  for path in /version /info '/services?status=true' /tasks "/containers/json?filters=$live"; do
    echo "$(call "$path") $path"
  done | sort -rn | head -n 1
}

cat <<TABLE
| services | containers | | wall | CPU | peak memory |
|---|---|---|---|---|---|
TABLE
for size in '0 0' '100 500' '500 2000'; do
  set -- $size
  services "$1"
  containers "$2"
  ours=$(measure "$LAB/ci-docker-prune" check-gates)
  script=$(measure sh "$LAB/gates-by-cli.sh")
  # From outside too: without what it costs to enter.
  outside=$(target/debug/bench measure 20 env STATE_DIRECTORY="$LAB/state" "$LAB/ci-docker-prune" check-gates)
  floor=$(slowest)
  awk -v s="$1" -v c="$2" -v a="$ours" -v b="$script" -v o="$outside" -v f="$floor" 'BEGIN {
    split(a, n, " "); split(b, m, " "); split(o, u, " "); split(f, k, " ")
    sub(/[?].*/, "", k[5])
    row = "| %s | %s | %s | %.1f ± %.1f ms | %.1f ms | %.1f MiB |\n"
    printf row, s, c, "`ci-docker-prune check-gates`", n[1], n[2], n[3], n[4] / 1024
    printf row, s, c, "`docker` in a script", m[1], m[2], m[3], m[4] / 1024
    printf row, s, c, "`ci-docker-prune check-gates`, without nsenter", u[1], u[2], u[3], u[4] / 1024
    printf "| %s | %s | its slowest call alone, `%s`, by curl, without nsenter | %.1f ± %.1f ms | | |\n", s, c, k[5], k[1], k[2]
    printf "| | | **ratio to the script** | %.1f × | %.1f × | %.1f × |\n", m[1] / n[1], m[3] / n[3], m[4] / n[4]
    printf "| | | **ratio to the slowest call** | %.2f × | | |\n", u[1] / k[1] }'
done
